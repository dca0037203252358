"""What is measured on a GPU, in this order: correctness, counts, speed, memory, 70B, then what time is left for."""

from dataclasses import dataclass
from pathlib import Path

from . import needs
from .machine import Machine

__all__ = ["PARTS", "Part"]

FINISH = 12  # seconds of a part's limit after which it begins nothing more: for what is under way, and for its end


@dataclass(frozen=True)
class Part:
    """A command of the benchmarks, which writes rows into the folder that it is given.

    Args:
        name: in tables and results.
        shows: what its numbers say.
        module: that is run, `python -m module`; it takes --out, a folder.
        cuda: its arguments on a GPU; {minutes} is what it has, {data} the folder of real text, {total} the
            bytes of the card.
        dry: likewise on a CPU, in tiny form.
        limit: seconds after which it is stopped.
        least: seconds that are kept for it, however long others take.
        needs: bytes of the card's memory.
        beside: it only needs a core of the CPU, and goes on beside the others.
        text: does it need real text?
        environment: variables that it needs.
    """

    name: str
    shows: str
    module: str
    cuda: str
    dry: str
    limit: int
    least: int = 15
    needs: float = needs.CONTEXT
    beside: bool = False
    text: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def given(self, machine: Machine, seconds: float, data: Path | None) -> tuple[str, ...]:
        """Return its arguments.

        Args:
            machine: where it is run.
            seconds: after which it is stopped.
            data: folder of real text.
        """
        minutes = f"{max(1.0, seconds - FINISH) / 60:.2f}"
        known = {"{minutes}": minutes, "{data}": str(data), "{total}": str(machine.total)}
        return tuple(known.get(word, word) for word in (self.cuda if machine.device == "cuda" else self.dry).split())


STEP_ROWS = (
    "--row-seconds 40 --only torch.adamw-fused|hybridopt.adamw|hybridopt.signsgd|hybridopt.frugal|hybridopt.adamw-int8"
)
STEP_ROWS += "|bitsandbytes.adamw8bit|hybridopt.adalomo|hybridopt.frugal-rows|hybridopt.frugal-0|hybridopt.adam_mini"
ALL_8B, LARGE_8B = "frugal-fused frugal adamw-int8 adalomo-fused", "adamw-fused adamw"
NO_GPU = (("CUDA_VISIBLE_DEVICES", ""),)  # predictions need none, and should take nothing of its memory
QUIET = (("TORCHINDUCTOR_COMPILE_THREADS", "1"),)  # many processes that each compile a little
PLANNED_TINY = "frugal frugal-fused"
SAMPLED = "--only kept sampled"

PARTS = (
    Part(
        "plan 8B",
        "what is planned for the steps of 8B",
        "benchmarks.train_memory",
        f"--device cuda --plan --only {ALL_8B} {LARGE_8B}",
        f"--device cpu --plan --only {PLANNED_TINY}",
        limit=300,
        needs=0,
        beside=True,
        environment=NO_GPU,
    ),
    Part(
        "plan 70B",
        "what is planned for 70B",
        "benchmarks.fit_70b",
        "--device cuda --simulate --card {total} --only frugal longest qlora full",
        "--device cpu --simulate --only frugal longest qlora",
        limit=300,
        needs=0,
        beside=True,
        environment=NO_GPU,
    ),
    Part(
        "plan placement",
        "what is planned for layers on the host",
        "benchmarks.staged",
        "--device cuda --plan",
        "--device cpu --plan",
        limit=300,
        needs=0,
        beside=True,
        environment=NO_GPU,
    ),
    Part(
        "plan sampled",
        "what is planned where a share of the inputs is kept",
        "benchmarks.train_memory",
        f"--device cuda --plan --set 8b-8 --sequence 4096 {SAMPLED}",
        f"--device cpu --plan {SAMPLED}",
        limit=300,
        needs=0,
        beside=True,
        environment=NO_GPU,
    ),
    Part(
        "self-test",
        "go or no go: what the machine has, and bits of the CPU and the device",
        "benchmarks.correctness",
        "--device cuda --checks doctor --jobs 1",
        "--device cpu --checks doctor --jobs 1 --fast",
        limit=70,
        least=30,
    ),
    Part(
        "policies",
        "every policy, with and without LoRA, quantized and saved, against the CPU",
        "benchmarks.correctness",
        "--device cuda --checks eager quantized compiled --jobs 6",
        "--device cpu --checks eager quantized --jobs 2 --fast",
        limit=90,
        least=40,
        environment=QUIET,
    ),
    Part(
        "counts",
        "launches and waits of a step of two layers of 8B, by the profiler",
        "benchmarks.launches.profiled",
        "--device cuda --set 8b-2",
        "--device cpu --set tiny",
        limit=50,
        least=25,
        needs=needs.training("8b-2"),
    ),
    Part(
        "step",
        "the update alone, 8 of 32 layers of 8B",
        "benchmarks.step",
        f"--device cuda --set 8b-8 --dtypes bf16 --pairs 5 --measure --minutes {{minutes}} {STEP_ROWS}",
        "--device cpu --set tiny --dtypes bf16 --pairs 2 --measure --compile false --threads 1 --minutes {minutes} "
        "--only torch.adamw-fused|hybridopt.adamw|hybridopt.frugal-rows",
        limit=110,
        least=50,
        needs=needs.stepping("8b-8"),
    ),
    Part(
        "mezo",
        "a step of MeZO against two bare forward passes, 8B, 2,048 tokens",
        "benchmarks.zeroth_memory",
        "--device cuda --set 8b --sequence 128 --replayed 0 --only forward mezo --minutes {minutes}",
        "--device cpu --replayed 0 --only forward mezo --minutes {minutes}",
        limit=50,
        least=25,
        needs=needs.forward("8b"),
    ),
    Part(
        "memory 8B",
        "peak and seconds of whole steps of 8B, 2,048 tokens, beside the plan",
        "benchmarks.train_memory",
        f"--device cuda --only {ALL_8B} --minutes {{minutes}}",
        f"--device cpu --only torch-adamw {PLANNED_TINY} --minutes {{minutes}}",
        limit=80,
        least=40,
        needs=max(needs.training("8b", density=0.25), needs.training("8b", state=2.1)),
    ),
    Part(
        "sampled",
        "8 of 32 layers of 8B, 4,096 tokens: three of ten rows of inputs kept (wta-crs) beside all of them",
        "benchmarks.train_memory",
        f"--device cuda --set 8b-8 --sequence 4096 {SAMPLED} --minutes {{minutes}}",
        f"--device cpu {SAMPLED} --minutes {{minutes}}",
        limit=45,
        least=20,
        needs=needs.training("8b-8", gradients=False, density=0.25) + 8 * needs.GIB,
    ),
    Part(
        "train",
        "`hybridopt train` on a Llama of 300M: the peak beside its plan, speed, the loss",
        "benchmarks.trained",
        "--device cuda --minutes {minutes}",
        "--device cpu --only frugal lora --minutes {minutes}",
        limit=60,
        least=30,
        needs=12 * needs.GIB,
    ),
    Part(
        "70B",
        "nf4, LoRA and FRUGAL: 2,048 tokens, then the planned longest; usual QLoRA",
        "benchmarks.fit_70b",
        "--device cuda --measure-only --only frugal longest qlora --minutes {minutes}",
        "--device cpu --measure-only --only frugal longest qlora --minutes {minutes}",
        limit=190,
        least=110,
        needs=needs.quantized("70b", beside=4 * needs.GIB),
    ),
    Part(
        "placement",
        "32 layers of 70B in nf4, on the host beside on the device: LoRA on 2,048 and 4,096 tokens",
        "benchmarks.staged",
        "--device cuda --minutes {minutes}",
        "--device cpu --minutes {minutes}",
        limit=120,
        least=70,
        needs=needs.quantized("70b-32", beside=8 * needs.GIB),
    ),
    Part(
        "memory large",
        "the same with all of AdamW's state in float32",
        "benchmarks.train_memory",
        f"--device cuda --only {LARGE_8B} --minutes {{minutes}}",
        "--device cpu --only adamw --minutes {minutes}",
        limit=50,
        needs=needs.training("8b"),
    ),
    Part(
        "70B full",
        "bfloat16 and every parameter trained",
        "benchmarks.fit_70b",
        "--device cuda --measure-only --only full --minutes {minutes}",
        "--device cpu --measure-only --only full --minutes {minutes}",
        limit=80,
        needs=2 * needs.parameters("70b") + 5 * needs.GIB + needs.CONTEXT,
    ),
    Part(
        "pretrain",
        "a Llama of 60M parameters from random weights",
        "benchmarks.pretrain",
        "--studies 60m --device cuda --data {data} --methods adamw frugal --at 1e-3 4 --seeds 0 --tokens 4915200 "
        "--measure --minutes {minutes}",
        "--studies main --methods adamw --at 1e-3 4 --seeds 0 --tokens 10240 --data {data} --measure "
        "--minutes {minutes}",
        limit=90,
        needs=8 * needs.GIB,
        text=True,
    ),
    Part(
        "noise",
        "adding noise to a large parameter, as zeroth-order steps do",
        "benchmarks.noise",
        "--device cuda --dtypes bf16 --rounds 5 --measure",
        "--device cpu --elements 65536 --rounds 1 --threads 1 --dtypes fp32 --only normal_* *eager --measure",
        limit=40,
        needs=4 * needs.GIB,
    ),
)
