"""Which potential to trust, where, and why: plain sentences, each with the numbers and files that it rests on.

Rules, not taste. A difference is stated only when it exceeds its noise (paired bootstrap of the force RMSE, log-rank
test of survival, both corrected by Bonferroni for the number of comparisons with the best). What was not measured is
said. Loss entropies are compared within one architecture only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from fireassay.report.figures import sources_of
from fireassay.report.runs import ASSAYS, Run, Source, split_names
from fireassay.report.sections import accuracy, stability
from fireassay.report.statistics import wilson
from fireassay.report.style import brief, digits, p_value, percent
from fireassay.settings import Settings

Grade = Literal["good", "fair", "poor", "none"]


class Criteria(Settings):
    """The thresholds behind the words of the verdict; the report prints them."""

    accurate: float = Field(
        default=5.0, gt=0, description="force RMSE in % of the reference standard deviation: at most this is accurate"
    )
    usable: float = Field(default=10.0, gt=0, description="the same: at most this is usable, more is not")
    survival: float = Field(
        default=0.9, gt=0, le=1, description="share of trajectories alive at the end below which MD is advised against"
    )
    calibrated: float = Field(
        default=0.05, gt=0, description="miscalibration area |A| up to which error bars are called honest"
    )
    misleading: float = Field(
        default=0.15, gt=0, description="miscalibration area |A| above which error bars are called misleading"
    )
    informative: float = Field(
        default=0.5, gt=0, le=1, description="Spearman correlation above which uncertainty ranks atoms by error"
    )
    significance: float = Field(default=0.05, gt=0, lt=1, description="significance level of the tests")


@dataclass(frozen=True)
class Finding:
    """A sentence, where its evidence is shown (anchor, words), and the files that hold its numbers."""

    text: str
    evidence: list[tuple[str, str]]
    sources: list[Source]


@dataclass(frozen=True)
class Cell:
    """One field of the overview: a number, what it means, and its grade."""

    text: str
    note: str
    grade: Grade
    href: str = ""


@dataclass(frozen=True)
class Verdict:
    """The top of the report."""

    headline: str
    advice: list[Finding]
    reasons: list[Finding]
    cautions: list[Finding]
    columns: list[str]
    overview: list[tuple[Run, list[Cell]]] = field(default_factory=list)


def verdict(runs: Sequence[Run], criteria: Criteria) -> Verdict:
    """Weighs the records."""
    columns, cells = _overview(runs, criteria)
    forces = _accuracy_rankings(runs, criteria, "forces")
    energies = _accuracy_rankings(runs, criteria, "energy")
    survival = _stability_ranking(runs, criteria)
    reasons = [
        *_accuracy_findings(forces, criteria, "forces"),
        *_accuracy_findings(energies, criteria, "energy"),
        *_stability_findings(survival),
        *_confidence(runs, criteria),
        *_entropy(runs),
    ]
    return Verdict(
        headline=_headline(runs, forces, survival, criteria),
        advice=[finding for run in runs for finding in _advice(run, criteria)],
        reasons=reasons,
        cautions=_cautions(runs, criteria),
        columns=columns,
        overview=list(zip(runs, cells, strict=True)),
    )


@dataclass(frozen=True)
class _Ranking:
    """One question put to all potentials: the best, those it beats beyond noise, those not told apart from it.

    `margins` holds, per rival, the interval of its RMSE minus that of the best in meV, or the p value, as words.
    """

    question: str
    best: Run
    beaten: list[Run]
    tied: list[Run]
    unlike: list[Run]
    margins: dict[int, str]

    @property
    def outcome(self) -> tuple[int, ...]:
        """The same for two questions with the same answer."""
        return (self.best.index, *(r.index for r in self.beaten), -1, *(r.index for r in self.tied))


# ---------------------------------------------------------------------------------------------- which one to trust


def _names(runs: Sequence[Run]) -> str:
    labels = [run.label for run in runs]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _words(items: Sequence[str], last: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def _accuracy_rankings(runs: Sequence[Run], criteria: Criteria, quantity: str) -> list[_Ranking]:
    rankings = []
    for split in split_names(runs, "accuracy", training=False):
        name = f"{split}.{'forces' if quantity == 'forces' else 'energy_per_atom'}.rmse"
        scored = [(run.number("accuracy", name), run) for run in runs]
        ranked = [run for _, run in sorted(((e, r) for e, r in scored if e is not None), key=lambda pair: pair[0])]
        if len(ranked) < 2:
            continue
        confidence = 1 - criteria.significance / (len(ranked) - 1)
        gap = accuracy.compare(ranked[0], ranked[1], split, confidence, quantity) if len(ranked) == 2 else None
        if gap is not None and not gap.decided:
            ranked.sort(key=lambda run: run.index)  # of two that are tied, neither is the best
        ranking = _Ranking(split, ranked[0], [], [], [], {})
        for run in ranked[1:]:
            gap = accuracy.compare(run, ranked[0], split, confidence, quantity)
            (ranking.unlike if gap is None else ranking.beaten if gap.low > 0 else ranking.tied).append(run)
            if gap is not None:
                ranking.margins[run.index] = f"{digits(1000 * gap.low, 2)} to {digits(1000 * gap.high, 2)}"
        rankings.append(ranking)
    return rankings


def _accuracy_findings(rankings: Sequence[_Ranking], criteria: Criteria, quantity: str) -> list[Finding]:
    groups: dict[tuple[int, ...], list[_Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.outcome, []).append(ranking)
    unit, what = ("meV/Å", "force") if quantity == "forces" else ("meV/atom", "energy")
    findings = []
    for members in groups.values():
        first = members[0]
        rivals = [*first.beaten, *first.tied]
        level = f"{brief(100 * (1 - criteria.significance / max(len(rivals + first.unlike), 1)))} %"
        where = f"At {_words([m.question for m in members])}"
        parts = []
        for run in rivals:
            margin = f"{_words([m.margins[run.index] for m in members])} {unit} ({level} interval)"
            if run in first.beaten:
                parts.append(f"{where} {first.best.label} has a lower {what} RMSE than {run.label}: by {margin}.")
            else:
                pair = f"{first.best.label} and {run.label}"
                parts.append(f"{where} the {what} RMSE of {pair} differ by no more than noise: {margin}.")
        if first.unlike:
            parts.append(f"{where} {_names(first.unlike)} was tested on other frames: no comparison is drawn.")
        evidence = [("table-accuracy", "errors"), ("table-differences", "differences")]
        findings.append(
            Finding(" ".join(parts), evidence, sources_of([first.best, *rivals, *first.unlike], "accuracy"))
        )
    return findings


def _stability_ranking(runs: Sequence[Run], criteria: Criteria) -> list[_Ranking]:
    tested = [run for run in runs if "stability" in run.assays and stability.survival(run) is not None]
    if len(tested) < 2:
        return []
    ranked = sorted(tested, key=lambda run: (-_alive(run)[0], -_mean_time(run)))
    ranking = _Ranking("stability", ranked[0], [], [], [], {})
    for run in ranked[1:]:
        p = stability.compare(ranked[0], run)
        beaten = p is not None and p < criteria.significance / (len(ranked) - 1)
        (ranking.unlike if p is None else ranking.beaten if beaten else ranking.tied).append(run)
        ranking.margins[run.index] = "" if p is None else p_value(p)
    return [ranking]


def _stability_findings(rankings: Sequence[_Ranking]) -> list[Finding]:
    findings = []
    for ranking in rankings:
        everyone = [ranking.best, *ranking.beaten, *ranking.tied, *ranking.unlike]
        parts = [f"Trajectories alive at the end: {_words([f'{r.label} {_survivors(r)}' for r in everyone])}."]
        for run in ranking.beaten:
            parts.append(
                f"{ranking.best.label} survives longer than {run.label} (log-rank {ranking.margins[run.index]})."
            )
        for run in ranking.tied:
            p = ranking.margins[run.index]
            parts.append(f"{ranking.best.label} and {run.label} differ by no more than noise (log-rank {p}).")
        if ranking.unlike:
            parts.append(f"{_names(ranking.unlike)} ran another protocol: no comparison is drawn.")
        evidence = [("figure-survival", "survival"), ("table-log-rank", "test")]
        findings.append(Finding(" ".join(parts), evidence, sources_of(everyone, "stability")))
    return findings


def _headline(runs: Sequence[Run], forces: Sequence[_Ranking], survival: Sequence[_Ranking], criteria: Criteria) -> str:
    if len(runs) == 1:
        return _limit(runs[0], criteria)
    rankings = [r for r in [*forces, *survival] if r.beaten or r.tied]
    decided = [r for r in rankings if r.beaten]
    if not rankings:
        return "The records allow no comparison: no two potentials share an assay on the same frames or protocol."
    if not decided:
        return f"The evidence does not separate {_names(runs)}: every difference is within noise."
    losers = {run.index for r in decided for run in r.beaten}
    front = [run for run in runs if run.index not in losers]
    winners = [run for run in front if any(r.best is run for r in decided)]
    if len(front) == 1 and winners:
        wins = [r for r in decided if r.best is winners[0]]
        beaten = [run for run in runs if any(run in r.beaten for r in wins)]
        note = "" if len(decided) == len(rankings) else "; elsewhere the difference is within noise"
        return f"Trust {winners[0].label} more than {_names(beaten)}: {_reasons(wins, forces)}{note}."
    if winners:
        behind = [run for run in runs if run.index in losers]
        return f"{_names(front)} are ahead of {_names(behind)}; among themselves the evidence does not separate them."
    leads: dict[int, list[_Ranking]] = {}
    for r in decided:
        leads.setdefault(r.best.index, []).append(r)
    words = [f"{group[0].best.label}, because {_reasons(group, forces)}" for group in leads.values()]
    return f"No potential wins everywhere. For {'; for '.join(words)}."


def _reasons(wins: Sequence[_Ranking], forces: Sequence[_Ranking]) -> str:
    splits = [r.question for r in wins if any(r is f for f in forces)]
    parts = [f"its forces are closer to the reference at {_words(splits)}"] if splits else []
    parts += ["its trajectories survive longer"] if len(splits) < len(wins) else []
    return " and ".join(parts)


# ---------------------------------------------------------------------------------------------- where to use it


def _alive(run: Run) -> tuple[float, int, int]:
    times = stability.survival(run)
    assert times is not None
    n, dead = len(times[0]), int(times[1].sum())
    return 1 - dead / n, n - dead, n


def _mean_time(run: Run) -> float:
    times = stability.survival(run)
    return float(times[0].mean()) if times else 0.0


def _survivors(run: Run) -> str:
    _, alive, n = _alive(run)
    return f"{alive} of {n}"


def _kelvin(run: Run) -> float | None:
    value = run.assays["stability"].settings.get("temperature") if "stability" in run.assays else None
    return float(value) if isinstance(value, int | float) else None


def _tested_temperatures(run: Run) -> list[tuple[float, str, float]]:
    """Temperature, split and normalised force RMSE in %, coolest first."""
    rows = []
    for split in split_names([run], "accuracy", training=False):
        kelvin, share = run.temperature(split), run.number("accuracy", f"{split}.forces.rmse_percent")
        if kelvin is not None and share is not None:
            rows.append((kelvin, split, share))
    return sorted(rows)


def _limit(run: Run, criteria: Criteria) -> str:
    """The advice on temperature in one sentence."""
    rows = _tested_temperatures(run)
    good = []
    for kelvin, _, share in rows:
        if share > criteria.usable:
            break
        good.append(kelvin)
    bad = rows[len(good)] if len(good) < len(rows) else None
    broken = _kelvin(run) if _has_failed(run, criteria) else None
    if broken is not None and good and broken <= good[-1]:
        return (
            f"Do not run {run.label} at {brief(broken)} K: its force errors there are small, and yet its trajectories "
            "break."
        )
    if rows and not good:
        return f"Do not use {run.label}: already at {brief(rows[0][0])} K its force error is too large."
    if not rows:
        if broken is not None:
            return f"Do not run {run.label} at {brief(broken)} K: its trajectories break."
        return f"The records of {run.label} set no temperature limit: no split has a temperature."
    if bad is None and broken is None:
        return f"{run.label}: no limit found up to {brief(good[-1])} K, the hottest split tested."
    reasons = [f"at {brief(bad[0])} K its force error is too large"] if bad else []
    reasons += [f"at {brief(broken)} K its trajectories break"] if broken is not None else []
    return f"Do not use {run.label} above {brief(good[-1])} K: {' and '.join(reasons)}."


def _has_failed(run: Run, criteria: Criteria) -> bool:
    return "stability" in run.assays and stability.survival(run) is not None and _alive(run)[0] < criteria.survival


def _advice(run: Run, criteria: Criteria) -> list[Finding]:
    rows = _tested_temperatures(run)
    parts, evidence, kinds = [_limit(run, criteria)], [], []
    if rows:
        numbers = [f"{digits(share, 2)} % at {split}" for _, split, share in rows]
        parts.append(f"Force RMSE in shares of the reference's spread: {_words(numbers)}.")
        evidence.append(("figure-temperature" if len(rows) > 1 else "table-accuracy", "errors"))
        kinds.append("accuracy")
    if "stability" in run.assays and stability.survival(run) is not None:
        parts.append(_survival_sentence(run, criteria))
        evidence.append(("figure-survival", "survival"))
        kinds.append("stability")
    return [Finding(" ".join(parts), evidence, sources_of([run], *kinds))] if kinds or not rows else []


def _survival_sentence(run: Run, criteria: Criteria) -> str:
    share, alive, n = _alive(run)
    low, high = wilson(alive, n)
    duration, kelvin = run.number("stability", "duration"), _kelvin(run)
    run_of = f"{brief((duration or 0) / 1000)} ps" + (f" at {brief(kelvin)} K" if kelvin is not None else "")
    if alive == n:
        return (
            f"All {n} trajectories of {run_of} survived; a failure rate of up to {percent(1 - low)} per trajectory is "
            "still compatible with that (95 %)."
        )
    interval = f"95 % interval {percent(low)} to {percent(high)}"
    return f"{n - alive} of {n} trajectories of {run_of} failed (survival {percent(share)}, {interval})."


# ---------------------------------------------------------------------------------------------- error bars, entropy


def _confidence(runs: Sequence[Run], criteria: Criteria) -> list[Finding]:
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
        words = [f"honest at {_words(honest)}"] if honest else []
        words += [f"too small at {_words([f'{s} (A+ {digits(a, 2)})' for s, a in over])}"] if over else []
        words += [f"too large at {_words([f'{s} (A− {digits(a, 2)})' for s, a in under])}"] if under else []
        parts[0] += f" {_words(words)}."
        parts += _wall(run, splits)
        rho = [(s, r) for s in splits if (r := run.number("uncertainty", f"{s}.spearman")) is not None]
        weak = [s for s, r in rho if r < criteria.informative]
        if rho and not weak:
            low = min(r for _, r in rho)
            parts.append(f"They rank the atoms by error on every split (Spearman at least {digits(low, 2)}).")
        elif weak:
            parts.append(
                f"They say little about which atoms err at {_words(weak)} (Spearman below {criteria.informative:g})."
            )
        evidence = [("figure-calibration", "calibration"), ("table-uncertainty", "numbers")]
        findings.append(Finding(" ".join(parts), evidence, sources_of([run], "uncertainty")))
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


def _entropy(runs: Sequence[Run]) -> list[Finding]:
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


# ---------------------------------------------------------------------------------------------- overview and cautions


def _overview(runs: Sequence[Run], criteria: Criteria) -> tuple[list[str], list[list[Cell]]]:
    splits = split_names(runs, "accuracy", training=False)
    md = any("stability" in run.assays for run in runs)
    bars = split_names(runs, "uncertainty", training=False)
    hottest = bars[-1:] if bars else []
    columns = [f"forces at {s}" for s in splits] + (["MD"] if md else []) + [f"error bars at {s}" for s in hottest]
    rows = []
    for run in runs:
        row = [_accuracy_cell(run, split, criteria) for split in splits]
        row += [_stability_cell(run, criteria)] if md else []
        row += [_bars_cell(run, split, criteria) for split in hottest]
        rows.append(row)
    return columns, rows


_MISSING = Cell("–", "not measured", "none")


def _accuracy_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    error = run.number("accuracy", f"{split}.forces.rmse")
    share = run.number("accuracy", f"{split}.forces.rmse_percent")
    if error is None:
        return _MISSING
    grade: Grade = "none"
    if share is not None:
        grade = "good" if share <= criteria.accurate else "fair" if share <= criteria.usable else "poor"
    word = {"good": "accurate", "fair": "usable", "poor": "too large", "none": ""}[grade]
    note = f"{digits(share, 2)} % · {word}" if share is not None else ""
    return Cell(f"{digits(1000 * error)} meV/Å", note, grade, "table-accuracy")


def _stability_cell(run: Run, criteria: Criteria) -> Cell:
    if "stability" not in run.assays or stability.survival(run) is None:
        return _MISSING
    share, alive, n = _alive(run)
    kelvin = _kelvin(run)
    grade: Grade = "good" if alive == n else "fair" if share >= criteria.survival else "poor"
    word = {"good": "no failure seen", "fair": "rare failures", "poor": "breaks"}[grade]
    where = f" at {brief(kelvin)} K" if kelvin is not None else ""
    return Cell(f"{alive} of {n} alive", f"{word}{where}", grade, "figure-survival")


def _bars_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    area = run.number("uncertainty", f"{split}.area")
    if area is None:
        return _MISSING
    over, under = (run.number("uncertainty", f"{split}.area_{side}") or 0.0 for side in ("over", "under"))
    grade: Grade = "good" if area <= criteria.calibrated else "fair" if area <= criteria.misleading else "poor"
    word = "honest" if grade == "good" else "overconfident" if over >= under else "underconfident"
    return Cell(f"|A| {digits(area, 2)}", word, grade, "figure-calibration")


def _diverged(runs: Sequence[Run]) -> list[Finding]:
    findings = []
    for run in runs:
        counts = [(s, run.number("accuracy", f"{s}.not_finite") or 0) for s in run.splits("accuracy")]
        words = [f"{int(count)} at {split}" for split, count in counts if count]
        if words:
            text = f"{run.label} gave no finite prediction for some frames ({_words(words)}); no error is stated there."
            findings.append(Finding(text, [("table-accuracy", "errors")], sources_of([run], "accuracy")))
    return findings


def _cautions(runs: Sequence[Run], criteria: Criteria) -> list[Finding]:
    findings = []
    if len(runs) > 1:
        text = (
            "Each potential is one training from one seed. A difference holds for these weights; it does not rank the "
            "architectures."
        )
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    for assay in ASSAYS:
        lacking = [
            r for r in runs if assay not in r.assays and not (r.calculator and assay in ("landscape", "uncertainty"))
        ]
        if lacking:
            text = (
                f"{_names(lacking)} {'has' if len(lacking) == 1 else 'have'} no {assay} assay: nothing is known there."
            )
            findings.append(Finding(text, [(assay, "how to add it")], []))
    prints = {str(run.record["data"].get("fingerprint")) for run in runs if isinstance(run.record.get("data"), dict)}
    if len(prints) > 1:
        text = "The potentials were trained on different data or splits: a difference may come from the data alone."
        findings.append(Finding(text, [("provenance", "provenance")], sources_of(runs, "run")))
    findings += _diverged(runs)
    unfinished = [
        r for r in runs if str(r.record.get("status", "finished")) not in ("finished", "complete", "completed", "done")
    ]
    if unfinished:
        states = ", ".join(f"{run.label}: {run.record.get('status')}" for run in unfinished)
        findings.append(
            Finding(f"Training had not finished ({states}).", [("training", "training")], sources_of(unfinished, "run"))
        )
    hottest = [max((t for t, _, _ in _tested_temperatures(run)), default=None) for run in runs]
    known = [t for t in hottest if t is not None]
    burned = [t for run in runs if (t := _kelvin(run)) is not None]
    if known and burned and max(burned) > max(known):
        text = (
            f"Forces were tested up to {brief(max(known))} K; MD ran at {brief(max(burned))} K, where surviving says "
            "that nothing broke, not that the forces are right."
        )
        findings.append(Finding(text, [("figure-temperature", "errors")], sources_of(runs, "accuracy", "stability")))
    return findings
