"""Networks in the Neuromorphic Intermediate Representation (NIR): graphs that other simulators and chips read."""

from onward.export.nir.check import Agreement
from onward.export.nir.run import (
    DT,
    SUFFIX,
    Exchanged,
    Imported,
    export_run,
    from_nir,
    import_file,
    nir_subject,
    read_network,
    write_network,
)

__all__ = [
    "DT",
    "SUFFIX",
    "Agreement",
    "Exchanged",
    "Imported",
    "export_run",
    "from_nir",
    "import_file",
    "nir_subject",
    "read_network",
    "write_network",
]
