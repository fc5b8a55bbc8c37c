"""Are the error bars honest, and may the loss entropies be compared?"""

from __future__ import annotations

from collections.abc import Sequence

from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.style import digits, percent
from fireassay.report.verdict.finding import Criteria, Finding, joined


def confidence(runs: Sequence[Run], criteria: Criteria) -> list[Finding]:
    """Per run what its error bars are worth, split by split."""
    findings = []
    for run in runs:
        splits = split_names([run], "uncertainty", training=False)
        rows = []
        for split in splits:
            over, under, area = (run.number("uncertainty", f"{split}.{n}") for n in ("area_over", "area_under", "area"))
            if area is not None:
                rows.append((split, over or 0.0, under or 0.0, area))
        if not rows:
            continue
        honest = [s for s, _, _, a in rows if a <= criteria.calibrated]
        over = [(s, o) for s, o, u, a in rows if a > criteria.calibrated and o >= u]
        under = [(s, u) for s, o, u, a in rows if a > criteria.calibrated and u > o]
        parts = [f"The error bars of {run.label} are"]
        words = [f"honest at {joined(honest)}"] if honest else []
        words += [f"too small at {joined([f'{s} (A+ {digits(a, 2)})' for s, a in over])}"] if over else []
        words += [f"too large at {joined([f'{s} (A− {digits(a, 2)})' for s, a in under])}"] if under else []
        parts[0] += f" {joined(words)}."
        parts += _wall(run, splits)
        rho = [(s, r) for s in splits if (r := run.number("uncertainty", f"{s}.spearman")) is not None]
        weak = [s for s, r in rho if r < criteria.informative]
        if rho and not weak:
            low = min(r for _, r in rho)
            parts.append(f"They rank the atoms by error on every split (Spearman at least {digits(low, 2)}).")
        elif weak:
            parts.append(
                f"They say little about which atoms err at {joined(weak)} (Spearman below {criteria.informative:g})."
            )
        evidence = [("figure-calibration", "calibration"), ("table-uncertainty", "numbers")]
        findings.append(Finding(" ".join(parts), evidence, sources_of([run], "uncertainty"), run.index))
    return findings


def _wall(run: Run, splits: Sequence[str]) -> list[str]:
    ratios = []
    for split in splits:
        guess = run.number("uncertainty", f"{split}.mean_uncertainty")
        error = run.number("uncertainty", f"{split}.mean_error")
        if guess is not None and error:
            ratios.append((guess / error, split))
    if not ratios:
        return []
    ratio, split = min(ratios)
    outside = run.number("uncertainty", f"{split}.ood_fraction")
    far = f", where {percent(outside)} of the atoms lie outside the training domain" if outside is not None else ""
    if ratio < 0.8:
        return [f"At {split} the mean predicted error is {percent(ratio)} of the true one{far}."]
    return []


def family(run: Run) -> str | None:
    """What makes entropies comparable: the model's configuration but for its depth; None when unknown.

    More layers leave the filters of a layer as they are; degree, parity and channels do not.
    """
    model = run.config.get("model")
    if not isinstance(model, dict):
        return None
    shape = {k: v for k, v in model.items() if k not in ("n_layers", "seed", "dtype", "device")}
    return repr(sorted(shape.items(), key=lambda item: str(item[0])))


def entropy(runs: Sequence[Run]) -> list[Finding]:
    """The loss entropies, ranked only within one architecture."""
    named = [(run.number("landscape", "filter.entropy.total"), run) for run in runs if "landscape" in run.assays]
    scored = [(s, run) for s, run in named if s is not None]
    if len(scored) < 2:
        return []
    families = {family(run) for _, run in scored}
    values = ", ".join(f"{run.label} {digits(s)}" for s, run in scored)
    evidence = [("table-entropy", "entropies")]
    source = sources_of([run for _, run in scored], "landscape")
    if len(families) > 1 or None in families:
        text = (
            f"Loss entropies ({values}) are shown but not used to rank: after filter normalisation they compare "
            "potentials of one architecture only."
        )
    else:
        best = max(scored, key=lambda pair: pair[0])[1]
        text = (
            f"Loss entropies within one architecture: {values}. {best.label} has the flattest valley, in one training."
        )
    return [Finding(text, evidence, source)]
