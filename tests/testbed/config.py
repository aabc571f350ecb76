"""Configuration files and command lines of the programs in a cluster. Pure: paths and a plan in, text out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .plan import DNS_ADDRESS, SERVICE_CIDR, ClusterPlan, NodePlan, NodeRoutes

PAUSE_IMAGE = "docker.io/meshwright/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

# The kubelet sets these for the whole machine and ends when it may not. Files with the wanted values are
# bound over them in the node's mount namespace, so it finds nothing to change and the machine stays as it
# was.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# What the kubelet and the runtime insist on having at these places; each node sees folders of its own there.
NODE_FOLDERS = {
    "containerd": "/var/lib/containerd",
    "kubelet": "/var/lib/kubelet",
    "cni": "/var/lib/cni",
    "cni-config": "/etc/cni/net.d",
    "cni-programs": "/opt/cni/bin",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
}
NODE_SCRATCH = ("/run/containerd", "/run/netns", "/run/istio-cni")
# The machine's plugins. Each node has links to them in a folder of its own, so that it can be given more.
CNI_PROGRAMS = Path("/usr/lib/cni")


@dataclass(frozen=True)
class Command:
    """One program of a node, kept running by the node's first process."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Endpoints:
    """Where one API server and its etcd are: the cluster's on its node, a bare one's on loopback."""

    address: str
    port: int
    etcd_port: int
    etcd_peer_port: int


def etcd(program: Path, data: Path, pki: Path, at: Endpoints) -> Command:
    url = f"https://127.0.0.1:{at.etcd_port}"
    peer = f"http://127.0.0.1:{at.etcd_peer_port}"
    return _command(
        "etcd",
        program,
        {
            "data-dir": str(data),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "cert-file": str(pki / "etcd.crt"),
            "key-file": str(pki / "etcd.key"),
            "client-cert-auth": "true",
            "trusted-ca-file": str(pki / "etcd-ca.crt"),
            # Nothing here has to survive a power cut, and fsync is most of the cost of a small etcd.
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        },
    )


def kube_apiserver(program: Path, pki: Path, at: Endpoints, extra: tuple[str, ...] = ()) -> Command:
    """The API server: mode Node,RBAC, default admission, service account tokens, aggregation layer."""
    command = _command(
        "kube-apiserver",
        program,
        {
            "etcd-servers": f"https://127.0.0.1:{at.etcd_port}",
            "etcd-cafile": str(pki / "etcd-ca.crt"),
            "etcd-certfile": str(pki / "etcd-client.crt"),
            "etcd-keyfile": str(pki / "etcd-client.key"),
            "advertise-address": at.address,
            "bind-address": at.address if at.address.startswith("127.") else "0.0.0.0",  # noqa: S104 - the node's own network
            "secure-port": str(at.port),
            "tls-cert-file": str(pki / "apiserver.crt"),
            "tls-private-key-file": str(pki / "apiserver.key"),
            "client-ca-file": str(pki / "ca.crt"),
            "authorization-mode": "Node,RBAC",
            "allow-privileged": "true",
            "service-cluster-ip-range": SERVICE_CIDR,
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": str(pki / "service-accounts.key"),
            "service-account-signing-key-file": str(pki / "service-accounts.key"),
            "kubelet-client-certificate": str(pki / "kubelet-client.crt"),
            "kubelet-client-key": str(pki / "kubelet-client.key"),
            "kubelet-certificate-authority": str(pki / "ca.crt"),
            # Node names do not resolve.
            "kubelet-preferred-address-types": "InternalIP",
            "endpoint-reconciler-type": "lease",
            "requestheader-client-ca-file": str(pki / "front-proxy-ca.crt"),
            "requestheader-allowed-names": "front-proxy",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": str(pki / "front-proxy.crt"),
            "proxy-client-key-file": str(pki / "front-proxy.key"),
            "profiling": "false",
        },
    )
    return Command(command.name, command.argv + extra)


def kube_controller_manager(program: Path, pki: Path, kubeconfig: Path, extra: tuple[str, ...] = ()) -> Command:
    command = _command(
        "kube-controller-manager",
        program,
        {
            "kubeconfig": str(kubeconfig),
            "authentication-kubeconfig": str(kubeconfig),
            "authorization-kubeconfig": str(kubeconfig),
            "bind-address": "127.0.0.1",
            "root-ca-file": str(pki / "ca.crt"),
            "client-ca-file": str(pki / "ca.crt"),
            "requestheader-client-ca-file": str(pki / "front-proxy-ca.crt"),
            "service-account-private-key-file": str(pki / "service-accounts.key"),
            "cluster-signing-cert-file": str(pki / "ca.crt"),
            "cluster-signing-key-file": str(pki / "ca.key"),
            "use-service-account-credentials": "true",
            # Every node has its pod network from the plan.
            "allocate-node-cidrs": "false",
            "leader-elect": "false",
            # With the default limits only 10 to 20 pods appear a second.
            "kube-api-qps": "200",
            "kube-api-burst": "400",
            "profiling": "false",
        },
    )
    return Command(command.name, command.argv + extra)


def kube_scheduler(program: Path, pki: Path, kubeconfig: Path) -> Command:
    return _command(
        "kube-scheduler",
        program,
        {
            "kubeconfig": str(kubeconfig),
            "authentication-kubeconfig": str(kubeconfig),
            "authorization-kubeconfig": str(kubeconfig),
            "bind-address": "127.0.0.1",
            "client-ca-file": str(pki / "ca.crt"),
            "requestheader-client-ca-file": str(pki / "front-proxy-ca.crt"),
            "leader-elect": "false",
            "kube-api-qps": "200",
            "kube-api-burst": "400",
            "profiling": "false",
        },
    )


def kubelet(program: Path, node: NodePlan, config: Path, kubeconfig: Path) -> Command:
    return _command(
        "kubelet",
        program,
        {
            "config": str(config),
            "kubeconfig": str(kubeconfig),
            "hostname-override": node.name,
            "node-ip": node.address,
            "node-labels": f"topology.kubernetes.io/region=testbed,topology.kubernetes.io/zone=zone-{node.number}",
        },
    )


def kubelet_config(node: NodePlan, pki: Path, cgroup: str) -> str:
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{node.name}.crt"),
            "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "failSwapOn": False,
            # Adjusting it needs CAP_SYS_RESOURCE, which a root user of a container or a small VM may lack.
            "oomScoreAdj": 0,
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_ADDRESS],
            "resolvConf": "",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "maxPods": 200,
            "serializeImagePulls": False,
            "registerWithTaints": [],
            # Tests fill no disks; the machine's own fill level must not evict their pods.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "shutdownGracePeriod": "0s",
        }
    )


def kube_proxy(program: Path, config: Path) -> Command:
    return _command("kube-proxy", program, {"config": str(config)})


def kube_proxy_config(node: NodePlan, cluster: ClusterPlan, kubeconfig: Path) -> str:
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "mode": "nftables",
            "clusterCIDR": cluster.pod_cidr,
            "hostnameOverride": node.name,
            "bindAddress": node.address,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "oomScoreAdj": 0,
            # Writing nf_conntrack_max fails in a network namespace, and is fatal; zero leaves it alone.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
                "udpTimeout": "0s",
                "udpStreamTimeout": "0s",
            },
        }
    )


def containerd(config: Path) -> Command:
    return Command("containerd", ("containerd", "--config", str(config)))


def containerd_config() -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Lowering it needs CAP_SYS_RESOURCE.
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Where CAP_SYS_RESOURCE is missing, every pod fails without this: "can't get final child's PID from pipe:
# EOF".
restrict_oom_score_adj = true
max_concurrent_downloads = 1

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{NODE_FOLDERS["cni-programs"]}"
conf_dir = "{NODE_FOLDERS["cni-config"]}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def cni_config(node: NodePlan) -> str:
    """Pods hang on a bridge in the node; masquerading is a rule of the node, see `node_ruleset`."""
    return _json(
        {
            "cniVersion": "1.0.0",
            "name": "testbed",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "isDefaultGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_cidr}]]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    )


def node_ruleset(node: NodePlan, routes: NodeRoutes) -> str:
    """Pods leave the node under its address, except towards networks that have a route back to them."""
    unmasked = ", ".join((*routes.unmasked, "224.0.0.0/4"))
    return f"""table ip testbed {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {node.pod_cidr} ip daddr != {{ {unmasked} }} masquerade
  }}
}}
"""


def _command(component: str, program: Path, flags: dict[str, str]) -> Command:
    # The multi-call binary runs the component it is called by: `program` is the folder of its links.
    return Command(component, (str(program / component), *(f"--{flag}={value}" for flag, value in flags.items())))


def _json(content: dict[str, object]) -> str:
    # JSON is YAML, and needs no writer of its own.
    return json.dumps(content, indent=2) + "\n"
