"""Which files a verification is about."""

from calib8.report.section import Column, Section, Table
from calib8.report.verification import VerificationReport
from calib8.report.wording import size_of


def verification(report: VerificationReport) -> Section:
    """Name, size and hash of reference and candidate."""
    rows = tuple(
        (role, file.name, file.bytes, file.sha256)
        for role, file in (("FP32 reference", report.reference), ("candidate", report.candidate))
    )
    columns = (Column("role"), Column("file"), Column("size", size_of), Column("SHA-256"))
    return Section("What was compared", tables=(Table("Files", columns, rows),), on="page")
