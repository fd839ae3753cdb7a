"""Several reports side by side: their RD curves on the clips that all share, and BD-rate against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.evaluation import Report
from app.evaluator.rd import MeanBDRate, mean_bd_rate

Curves = dict[str, list[list[float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``curves`` has [rate, quality] points by name and clip, by rate: kbit/s, or bits per pixel for a still image.

    ``bd_rate`` is against ``anchor``, which is not in it. ``left_out`` says of clips why they are not compared.
    """

    anchor: str
    metric: str
    clips: tuple[str, ...]
    curves: dict[str, Curves]
    bd_rate: dict[str, MeanBDRate]
    left_out: dict[str, str] = field(default_factory=dict)


def compare(reports: Mapping[str, Report], *, anchor: str, metric: str) -> Comparison:
    """Compare on the clips that every report has with the same content and the same range of frames."""
    shared, left_out = _shared(list(reports.values()))
    curves = {
        name: {clip: report.rd[clip][metric] for clip in shared if metric in report.rd.get(clip, {})}
        for name, report in reports.items()
    }
    bd_rate = {
        name: mean_bd_rate(_points(curves[anchor]), _points(of_name))
        for name, of_name in curves.items()
        if name != anchor
    }
    return Comparison(
        anchor=anchor, metric=metric, clips=tuple(shared), curves=curves, bd_rate=bd_rate, left_out=left_out
    )


def _shared(reports: Sequence[Report]) -> tuple[list[str], dict[str, str]]:
    shared: list[str] = []
    left_out: dict[str, str] = {}
    for clip in dict.fromkeys(clip for report in reports for clip in report.rd):
        identities = [_identity(report, clip) for report in reports]
        if any(clip not in report.rd for report in reports):
            left_out[clip] = "not measured in every job"
        elif any(identity != identities[0] for identity in identities):
            left_out[clip] = "another clip of that name, or another range of frames, in some of the jobs"
        else:
            shared.append(clip)
    return shared, left_out


def _identity(report: Report, clip: str) -> object:
    """What has to be the same for two measurements of a clip to be comparable."""
    clips, frames = report.provenance.get("clips"), report.provenance.get("frames")
    lengths = {point.frames for point in report.points if point.clip == clip}
    start = frames.get("start") if isinstance(frames, dict) else None
    return (clips.get(clip) if isinstance(clips, dict) else None, start, lengths)


def _points(curves: Curves) -> dict[str, list[tuple[float, float]]]:
    return {clip: [(rate, quality) for rate, quality in points] for clip, points in curves.items()}
