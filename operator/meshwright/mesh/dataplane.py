"""What `spec.dataPlane` and `spec.observability` mean: istiod's environment, and fields of the mesh config.

| field | mesh config | istiod's environment |
| --- | --- | --- |
| `deltaXDS` | `defaultConfig.proxyMetadata.ISTIO_DELTA_XDS` | |
| `certificateTTL` | `defaultConfig.proxyMetadata.SECRET_TTL` | `DEFAULT_WORKLOAD_CERT_TTL` |
| `certificateRenewalRatio` | `defaultConfig.proxyMetadata.SECRET_GRACE_PERIOD_RATIO` | |
| `idleTimeout` | `defaultTrafficPolicy.connectionPool.http.idleTimeout`, `….tcp.idleTimeout` | |
| `dnsRefreshRate` | `dnsRefreshRate` | |
| `sidecar.nativeSidecars` | | `ENABLE_NATIVE_SIDECARS` |
| `observability.prometheus` | `defaultProviders.metrics` | |
| `observability.tracing` | `extensionProviders`, `defaultProviders.tracing`, `defaultConfig.tracing.sampling` | |
| `observability.accessLog` | `accessLogFile`, `accessLogEncoding` | |
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from meshwright.api.meshinstall import MeshSpec, NativeSidecars
from meshwright.mesh.sizing import PROXY, contradictions
from meshwright.mesh.versions import Version

TRACER = "meshwright-otlp"
NATIVE = {NativeSidecars.ENABLED: "true", NativeSidecars.DISABLED: "false"}
UNITS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
SHORTEST_TTL, LONGEST_TTL = 600, 90 * 24 * 3600  # seconds; the longest is what istiod signs without being told more
POOL_IDLE_TIMEOUT = (1, 31)  # the first minor whose mesh config has it


def istiod_env(spec: MeshSpec) -> dict[str, str]:
    env = {}
    if native := NATIVE.get(spec.data_plane.sidecar.native_sidecars):
        env["ENABLE_NATIVE_SIDECARS"] = native
    if ttl := spec.data_plane.certificate_ttl:
        env["DEFAULT_WORKLOAD_CERT_TTL"] = ttl
    return env


def mesh_config(spec: MeshSpec) -> dict[str, Any]:
    """The fields of the mesh config that follow from other fields of the MeshInstall."""
    plane, watch = spec.data_plane, spec.observability
    config: dict[str, Any] = {"defaultConfig": {"proxyMetadata": proxy_metadata(spec)}}
    if plane.idle_timeout:
        timeout = as_proto(plane.idle_timeout)
        config["defaultTrafficPolicy"] = {
            "connectionPool": {"http": {"idleTimeout": timeout}, "tcp": {"idleTimeout": timeout}}
        }
    if plane.dns_refresh_rate:
        config["dnsRefreshRate"] = as_proto(plane.dns_refresh_rate)
    if watch.tracing:
        otlp = watch.tracing.otlp
        config["extensionProviders"] = [{"name": TRACER, "opentelemetry": {"service": otlp.service, "port": otlp.port}}]
        config["defaultProviders"] = {"tracing": [TRACER]}
        config["defaultConfig"]["tracing"] = {"sampling": watch.tracing.sampling_percent}
    if watch.access_log:
        config |= {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}
    return config


def proxy_metadata(spec: MeshSpec) -> dict[str, str]:
    plane = spec.data_plane
    metadata = {"ISTIO_DELTA_XDS": "true" if plane.delta_xds else "false"}
    if plane.certificate_ttl:
        metadata["SECRET_TTL"] = plane.certificate_ttl
    if plane.certificate_renewal_ratio is not None:
        metadata["SECRET_GRACE_PERIOD_RATIO"] = f"{plane.certificate_renewal_ratio:g}"
    return metadata


def problems(spec: MeshSpec) -> list[str]:
    plane = spec.data_plane
    found = contradictions("spec.dataPlane.sidecar.resources", plane.sidecar.resources, PROXY.limits)
    found += [
        f"spec.controlPlane.env.{name} follows from spec.dataPlane: remove it"
        for name in istiod_env(spec)
        if name in spec.control_plane.env
    ]
    for name, value in (
        ("certificateTTL", plane.certificate_ttl),
        ("idleTimeout", plane.idle_timeout),
        ("dnsRefreshRate", plane.dns_refresh_rate),
    ):
        if value and seconds(value) == 0:
            found.append(f"spec.dataPlane.{name} is 0: leave it out for Istio's own")
    if plane.certificate_ttl and not SHORTEST_TTL <= seconds(plane.certificate_ttl) <= LONGEST_TTL:
        found.append(f"spec.dataPlane.certificateTTL ({plane.certificate_ttl}): use 10m to 2160h (90 days)")
    if plane.idle_timeout and Version.parse(spec.version)[:2] < POOL_IDLE_TIMEOUT:
        found.append(f"spec.dataPlane.idleTimeout needs Istio 1.31, and spec.version is {spec.version}: remove it")
    return found


def seconds(duration: str) -> Fraction:
    """`1h30m` → 5400."""
    return sum((Fraction(number) * UNITS[unit] for number, unit in PART.findall(duration)), Fraction(0))


PART = re.compile(r"([0-9.]+)(ms|[smh])")


def as_proto(duration: str) -> str:
    """As protobuf's JSON has it: seconds, in decimals."""
    whole, nanoseconds = divmod(int(seconds(duration) * 10**9), 10**9)
    return f"{whole}.{nanoseconds:09d}".rstrip("0").rstrip(".") + "s"
