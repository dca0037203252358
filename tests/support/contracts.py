"""What a contract declares."""

import inspect

__all__ = ["declared"]


def declared(contract):
    """The names of all attributes, properties and methods of a Protocol."""
    own = {name for name, value in vars(contract).items() if inspect.isfunction(value) or isinstance(value, property)}
    return {name for name in own | set(inspect.get_annotations(contract)) if not name.startswith("_")}
