"""Run the command `hybridopt` as a module, as launchers of several processes do: `torchrun ... -m hybridopt train`."""

from .cli.main import main

if __name__ == "__main__":
    main()
