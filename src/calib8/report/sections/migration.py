"""What became of a calibration cache."""

from collections.abc import Iterable, Iterator

from calib8.quantization.migrate import Migration
from calib8.report.section import Note, Section

#: Names shown of each kind.
SHOWN = 3


def migration_section(migration: Migration) -> Section:
    """Counts by what became of tensors and entries, with the first few names; kinds that are empty are left out."""
    moved = [f"{tensor} from {entry}" for tensor, entry in migration.used.items() if tensor != entry]
    tensors = (
        ("with the cache's scale, to the bit", migration.used, False),
        ("of them with the scale of the tensor that they rearrange", moved, True),
        ("without an entry: their ops stay in float", migration.missing, True),
        ("whose entry is 0, infinite or subnormal: their ops stay in float", migration.unusable, True),
    )
    entries = (
        ("used", set(migration.used.values()), False),
        ("of tensors that no INT8 op reads", migration.unneeded, True),
        ("of tensors that TensorRT added itself", migration.builtin, True),
        ("that name nothing in this model", migration.unknown, True),
    )
    said = (
        "inputs of MatMul, Gemm and Conv:",
        *(_line(what, names, named) for what, names, named in tensors if names),
        f"entries of {migration.header}:",
        *(_line(what, names, named) for what, names, named in entries if names),
        *_remainder(migration.unheld),
    )
    return Section("Migration", tuple(map(Note, said)))


def _remainder(unheld: tuple[str, ...] | None) -> Iterator[str]:
    if unheld is None:
        yield "nobody looked whether FP16 holds what is not INT8: some samples (--data) show it"
    elif unheld:
        yield "float tensors:"
        yield _line("that FP16 does not hold, as the data shows, and that stay FP32", unheld, named=True)


def _line(what: str, names: Iterable[str], named: bool) -> str:
    listed = list(names)
    shown = f": {', '.join(listed[:SHOWN])}{', …' if len(listed) > SHOWN else ''}" if named else ""
    return f"  {len(listed):>5}  {what}{shown}"
