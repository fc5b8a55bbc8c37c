"""Assay: probes, cheap questions without labels that find unsound potentials of any kind in a minute.

Each asks for a law that every potential energy surface obeys: forces are its gradient and its Hessian is symmetric,
it does not depend on how atoms are written down, atoms repel each other at short distance, it is continuous, a crystal
resists strain, dynamics at constant energy conserves it. The answer is a number with limits, a verdict, a sentence.
"""

from __future__ import annotations

import time

from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.probes import bulk, conservation, consistency, curves, motion, softening
from fireassay.assays.probes.inquiry import Inquiry
from fireassay.assays.probes.settings import ProbesSettings
from fireassay.errors import InputError
from fireassay.records.probes import ProbesResult

__all__ = ["ASSAY", "ProbesSettings", "run"]


def run(subject: Subject, settings: ProbesSettings) -> ProbesResult:
    """All probes that the subject's start and predictor allow; the others are listed with the reason.

    Raises InputError when an element is unknown to the predictor, or no calculation at the start succeeds.
    """
    start = subject.start
    assert start is not None
    began = time.perf_counter()
    inquiry = Inquiry.of(subject, settings)
    if not inquiry.works:
        raise InputError(f"{start.where}: the calculation at the start fails: {inquiry.why}")
    subject.progress.start(f"probes of {subject.name}", inquiry.planned())
    try:
        probes, scans = conservation.probes(inquiry)
        probes += consistency.probes(inquiry)
        found, drawn = curves.probes(inquiry)
    finally:
        subject.progress.stop()
    crystal, of_bulk = bulk.probes(inquiry)
    probes += [*found, *of_bulk, *motion.probes(inquiry), *softening.probes(inquiry)]
    return ProbesResult(
        start=start.where,
        n_atoms=len(start),
        probes=probes,
        scans=scans,
        curves=drawn,
        bulk=crystal,
        evaluations=inquiry.count,
        seconds=time.perf_counter() - began,
    )


ASSAY = Assay("probes", ProbesSettings, (Need.START,), run)
