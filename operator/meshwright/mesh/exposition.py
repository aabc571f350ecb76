"""The few series that are read of istiod and of proxies, in the text format of Prometheus.

A proxy's page holds what the application beside it says, too, and that may be anything: a line that is none is passed
over, and of two samples of the same series the first counts, as the agent's own come first.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshwright.mesh.signals import Histogram, Readout

CONNECTED = "pilot_xds"
ROOT_EXPIRY = "citadel_server_root_cert_expiry_timestamp"
ISTIOD = "pilot_info"
CERTIFICATE = "istio_agent_cert_expiry_seconds"
STARTED, CPU, MEMORY = "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"
PUSH, CONTEXT, CONVERGENCE = "pilot_xds_push_time", "pilot_pushcontext_init_seconds", "pilot_proxy_convergence_time"
CONFIG = "pilot_xds_config_size_bytes"  # of one answer, by kind
PUSHED = ("cds", "lds", "rds", "eds")  # what every proxy gets; kinds that few get would hide it
BUCKET = "_bucket"
WORKLOAD = "default"  # the workload's own certificate, among the agent's resources

# No two parts can match the same text, so that a hostile line takes no longer than another one.
LINE = re.compile(
    r"""[ \t]*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*
        (?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\}[ \t]*)?
        (?P<value>[+-]?(?:Inf|NaN|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?))
        (?:[ \t]+-?[0-9.eE+-]+)?           # when it was measured
        [ \t]*(?:\#.*)?\r?                 # an exemplar
    """,
    re.VERBOSE | re.DOTALL,
)
LABEL = re.compile(
    r'[ \t]*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"(?P<value>(?:[^"\\]|\\.)*)"[ \t]*(?:,|$)', re.DOTALL
)
ESCAPED = re.compile(r'\\(["\\n])')


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: str, *begin: str) -> Iterator[Sample]:
    """Every sample, in order; or those whose names begin so, as a page has ten thousand others."""
    for line in page.split("\n"):  # not splitlines: a label may hold what Unicode calls a line break
        if begin and not line.lstrip(" \t").startswith(begin):
            continue
        if (found := LINE.fullmatch(line)) and (labels := _labels(found["labels"] or "")) is not None:
            yield Sample(found["name"], labels, float(found["value"]))


def concerns(name: str, line: bytes) -> bool:
    """Whether a line of a page may be a sample of `name`: a quick look, for pages that are long."""
    return line.lstrip().startswith(name.encode())


def proxies_by_version(page: str) -> dict[str, int]:
    """The proxies that hang on an istiod, by the version that they say they have."""
    counted: dict[str, int] = {}
    for sample in samples(page, CONNECTED):
        if sample.name == CONNECTED and math.isfinite(sample.value) and sample.value >= 1:
            counted.setdefault(sample.labels.get("version", ""), int(sample.value))
    return counted


def readout(page: str, *, at: dt.datetime) -> Readout | None:
    """What an istiod has counted so far; None where the page is not that of a process."""
    single: dict[str, float] = {}
    sizes: dict[str, dict[str, float]] = {CONFIG + "_sum": {}, CONFIG + "_count": {}}
    buckets: dict[str, defaultdict[float, float]] = {
        name + BUCKET: defaultdict(float) for name in (PUSH, CONTEXT, CONVERGENCE)
    }
    for sample in samples(page, *COUNTED):
        if not math.isfinite(sample.value) or sample.value < 0:
            continue
        if sample.name in sizes:
            sizes[sample.name][sample.labels.get("type", "")] = sample.value
        elif sample.name in buckets:
            if sample.labels.get("type", PUSHED[0]) in PUSHED and (bound := _number(sample.labels.get("le"))):
                buckets[sample.name][bound] += sample.value
        else:
            single.setdefault(sample.name, sample.value)
    if not {STARTED, CPU, MEMORY} <= single.keys():
        return None
    return Readout(
        at=at, started=single[STARTED], cpu_seconds=single[CPU], memory=single[MEMORY],
        proxies=sum(proxies_by_version(page).values()),
        config_bytes=sum(
            size / count
            for kind, size in sizes[CONFIG + "_sum"].items()
            if (count := sizes[CONFIG + "_count"].get(kind, 0.0))
        ),
        **{name: Histogram(dict(buckets[series + BUCKET]))
           for name, series in (("push", PUSH), ("context", CONTEXT), ("convergence", CONVERGENCE))},
    )  # fmt: skip


def istiod_version(page: str) -> str:
    """As it was built, such as `1.31.4-eed52ebb66ad-Clean`; empty where the page does not say."""
    return next((sample.labels.get("version", "") for sample in samples(page, ISTIOD) if sample.name == ISTIOD), "")


def root_expires(page: str) -> dt.datetime | None:
    """When the root that an istiod signs with ends; it says so with a signing certificate of its own only."""
    seconds = next((sample.value for sample in samples(page, ROOT_EXPIRY) if sample.name == ROOT_EXPIRY), math.nan)
    return _moment(dt.datetime.fromtimestamp(0, dt.UTC), seconds)


def certificate_expires(page: str, *, now: dt.datetime) -> dt.datetime | None:
    """When the certificate of a proxy's workload ends. The agent counts the seconds left, below 0 afterwards."""
    seconds = next(
        (
            sample.value
            for sample in samples(page)
            if sample.name == CERTIFICATE and sample.labels.get("resource_name") == WORKLOAD
        ),
        math.nan,
    )
    return _moment(now, seconds)


COUNTED = (STARTED, CPU, MEMORY, PUSH + BUCKET, CONTEXT + BUCKET, CONVERGENCE + BUCKET, CONFIG)


def _number(text: str | None) -> float | None:
    """Of a bound, above 0; None for anything else."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if found > 0 else None


def _moment(start: dt.datetime, seconds: float) -> dt.datetime | None:
    try:
        return start + dt.timedelta(seconds=round(seconds))
    except (ValueError, OverflowError):  # no number, or no date
        return None


def _labels(text: str) -> dict[str, str] | None:
    """`a="b",c="d"`, or None for anything else."""
    labels: dict[str, str] = {}
    text, place = text.rstrip(), 0
    while place < len(text):
        if not (found := LABEL.match(text, place)):
            return None
        labels[found["name"]] = ESCAPED.sub(lambda mark: "\n" if mark[1] == "n" else mark[1], found["value"])
        place = found.end()
    return labels
