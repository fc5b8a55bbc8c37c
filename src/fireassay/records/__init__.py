"""What a run leaves on disk: JSON for people, npz and safetensors for arrays, every file replaced atomically.

A run directory holds one potential's whole story; the report is made from run directories alone:

    config.yaml          the resolved configuration
    run.json             what the potential is, where its data come from, how its training went (`RunRecord`)
    metrics.jsonl, .csv  one row per epoch
    checkpoint/          EPOCH-BATCH.safetensors, the newest two: everything that an exact resume needs
    potential.safetensors  the trained potential: weights, and its architecture as JSON in the header
    errors.npz           per-atom error trajectories as histograms (`ErrorTrajectory`)
    assays/NAME.json     one assay's result, its settings and provenance, and what it judged (`AssayRecord`)
    assays/NAME.npz      the result's arrays

The type of each result (`accuracy`, `stability` and so on) owns its names, units and shapes.
"""

from fireassay.records.assay import AssayRecord, Untyped, load_assay
from fireassay.records.error_trajectory import ErrorTrajectory
from fireassay.records.files import atomic, read_arrays, read_json, read_text, write_arrays, write_json, write_text
from fireassay.records.provenance import Provenance, environment, renewal
from fireassay.records.run import RunRecord
from fireassay.records.typed import Flags, Floats, Integers, Shape, Unit, record
from fireassay.records.weights import fingerprint_of_file, fingerprint_of_text

__all__ = [
    "AssayRecord",
    "ErrorTrajectory",
    "Flags",
    "Floats",
    "Integers",
    "Provenance",
    "RunRecord",
    "Shape",
    "Unit",
    "Untyped",
    "atomic",
    "environment",
    "fingerprint_of_file",
    "fingerprint_of_text",
    "load_assay",
    "read_arrays",
    "read_json",
    "read_text",
    "record",
    "renewal",
    "write_arrays",
    "write_json",
    "write_text",
]
