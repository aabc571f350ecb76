{{- /*
What istiod lays over every injected pod: a Go text/template that istiod runs, not the operator. All variation comes from
`values` beside it and from pod annotations. Two rules hold it together:
- only data fields and functions of every supported istiod minor: an unknown function keeps istiod from starting;
- whatever a pod author can write goes through quote, toJson or atoi, so that a value can never become a field.
*/}}

{{- $proxy := .Values.global.proxy }}
{{- $annotations := .ObjectMeta.Annotations }}
{{- $labels := .ObjectMeta.Labels }}

{{- $cni := dig "cni" "enabled" false (.Values.pilot | default dict) }}
{{- $mode := annotation .ObjectMeta "sidecar.istio.io/interceptionMode" .ProxyConfig.InterceptionMode }}
{{- $tproxy := eq $mode "TPROXY" }}
{{- $captured := ne $mode "NONE" }}
{{- $asked := index $annotations "sidecar.istio.io/nativeSidecar" }}
{{- $native := or (eq $asked "true") (and .NativeSidecars (ne $asked "false")) }}
{{- $hold := or .ProxyConfig.HoldApplicationUntilProxyStarts.GetValue $proxy.holdApplicationUntilProxyStarts }}
{{- $image := annotation .ObjectMeta "sidecar.istio.io/proxyImage" .ProxyImage }}
{{- $logging := dig "logging" "level" "default:info" .Values.global | annotation .ObjectMeta "sidecar.istio.io/agentLogLevel" }}
{{- $bootstrap := index $annotations "sidecar.istio.io/bootstrapOverride" }}

{{- /* What is captured. istiod checks the form of all of these annotations but includeOutboundPorts. */}}
{{- $statusPort := annotation .ObjectMeta "status.sidecar.istio.io/port" .ProxyConfig.StatusPort | trim }}
{{- $includeRanges := dig "includeIPRanges" "*" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/includeOutboundIPRanges" }}
{{- $excludeRanges := dig "excludeIPRanges" "" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/excludeOutboundIPRanges" }}
{{- $includeInbound := dig "includeInboundPorts" "*" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/includeInboundPorts" }}
{{- $excludeInbound := dig "excludeInboundPorts" "" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/excludeInboundPorts" | excludeInboundPort $statusPort }}
{{- $includeOutbound := dig "includeOutboundPorts" "" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/includeOutboundPorts" }}
{{- $excludeOutbound := dig "excludeOutboundPorts" "" $proxy
      | annotation .ObjectMeta "traffic.sidecar.istio.io/excludeOutboundPorts" }}
{{- $reroute := annotation .ObjectMeta "traffic.sidecar.istio.io/kubevirtInterfaces" ""
      | annotation .ObjectMeta "istio.io/reroute-virtual-interfaces" }}
{{- $excludeInterfaces := annotation .ObjectMeta "traffic.sidecar.istio.io/excludeInterfaces" "" }}
{{- if not (regexMatch `^(\*|[0-9, ]*)$` $includeOutbound) }}
{{- fail "traffic.sidecar.istio.io/includeOutboundPorts: want ports separated by commas, or *" }}
{{- end }}

{{- /* JSON, as a list or as a map by name; $patch would reach beyond the one item. */}}
{{- $own := dict }}
{{- range list "userVolume" "userVolumeMount" }}
{{- $name := print "sidecar.istio.io/" . }}
{{- $items := list }}
{{- $found := index $annotations $name | default "[]" | fromJson }}
{{- if not (or (kindIs "slice" $found) (kindIs "map" $found)) }}{{ fail (print $name ": want a list or a map in JSON") }}{{ end }}
{{- range $key, $item := $found }}
{{- if not (kindIs "map" $item) }}{{ fail (print $name ": want a list or a map of objects") }}{{ end }}
{{- if kindIs "string" $key }}{{ $item = set $item "name" $key }}{{ end }}
{{- $items = append $items (unset $item "$patch") }}
{{- end }}
{{- $own = set $own . $items }}
{{- end }}

{{- /* One resource annotation replaces the whole default: a raised request must not exceed a limit nobody chose. */}}
{{- $resources := dict }}
{{- range list (list "proxyCPU" "requests" "cpu") (list "proxyCPULimit" "limits" "cpu")
      (list "proxyMemory" "requests" "memory") (list "proxyMemoryLimit" "limits" "memory") }}
{{- $row := . }}
{{- with index $annotations (index $row 0 | print "sidecar.istio.io/") }}
{{- $resources = merge $resources (dict (index $row 1) (dict (index $row 2) .)) }}
{{- end }}
{{- end }}
{{- $resources = $resources | default $proxy.resources | default dict | toJson }}

{{- /* The application as the proxy sees it; a pod may bring its own istio-proxy container to adjust ours. */}}
{{- $pinned := false }}
{{- $applications := list }}
{{- $ports := list }}
{{- range concat .Spec.Containers .Spec.InitContainers }}
{{- if and (eq .Name "istio-proxy") (not (has .Image (list "" "auto"))) }}{{ $pinned = true }}{{ end }}
{{- end }}
{{- range .Spec.Containers }}
{{- if ne .Name "istio-proxy" }}
{{- $applications = append $applications .Name }}
{{- $ports = concat $ports .Ports }}
{{- end }}
{{- end }}
{{- $fallbackName := .DeploymentMeta.Name | trunc 63 | trimAll "-_." }}
{{- $canonicalName := index $labels "app" | default $fallbackName }}
{{- $canonicalName = index $labels "app.kubernetes.io/name" | default $canonicalName }}
{{- $canonicalRevision := index $labels "version" | default "latest" }}
{{- $canonicalRevision = index $labels "app.kubernetes.io/version" | default $canonicalRevision }}

metadata:
  labels:
    {{- /* Without tlsMode other proxies send plaintext under auto mTLS. */}}
    security.istio.io/tlsMode: {{ index $labels "security.istio.io/tlsMode" | default "istio" | quote }}
    service.istio.io/canonical-name: {{ index $labels "service.istio.io/canonical-name" | default $canonicalName | quote }}
    service.istio.io/canonical-revision: {{ index $labels "service.istio.io/canonical-revision" | default $canonicalRevision | quote }}
    {{- if eq (index .ProxyConfig.ProxyMetadata "ISTIO_META_ENABLE_HBONE") "true" }}
    networking.istio.io/tunnel: {{ index $labels "networking.istio.io/tunnel" | default "http" | quote }}
    {{- end }}
  annotations:
    istio.io/rev: {{ .Revision | default "default" | quote }}
    {{- /* Of a pod that pins its proxy's image nobody is to say that it is outdated; null takes out what it claims itself. */}}
    meshwright.dev/proxy-image: {{ if $pinned }}null{{ else }}{{ $image | quote }}{{ end }}
    {{- with first $applications }}
    kubectl.kubernetes.io/default-container: {{ index $annotations "kubectl.kubernetes.io/default-container" | default . | quote }}
    kubectl.kubernetes.io/default-logs-container: {{ index $annotations "kubectl.kubernetes.io/default-logs-container" | default . | quote }}
    {{- end }}
    {{- if $cni }}
    {{- /* The CNI plugin reads annotations, not values. */}}
    sidecar.istio.io/interceptionMode: {{ $mode | quote }}
    traffic.sidecar.istio.io/includeOutboundIPRanges: {{ $includeRanges | quote }}
    traffic.sidecar.istio.io/excludeOutboundIPRanges: {{ $excludeRanges | quote }}
    traffic.sidecar.istio.io/includeInboundPorts: {{ $includeInbound | quote }}
    traffic.sidecar.istio.io/excludeInboundPorts: {{ $excludeInbound | quote }}
    traffic.sidecar.istio.io/includeOutboundPorts: {{ $includeOutbound | quote }}
    traffic.sidecar.istio.io/excludeOutboundPorts: {{ $excludeOutbound | quote }}
    {{- end }}
spec:
  {{- if or $native $captured $cni }}
  initContainers:
  {{- end }}
  {{- if or $captured $cni }}
  {{- /* Without capture, the container only has its name: the CNI plugin leaves pods alone that have an istio-init, and
         refuses every other one whose mode is NONE. */}}
  - name: {{ ternary "istio-validation" "istio-init" (and $cni $captured) }}
    image: {{ $image | quote }}
    {{- with .Values.global.imagePullPolicy }}
    imagePullPolicy: {{ . | quote }}
    {{- end }}
    {{- if not $captured }}
    args: [version]
    {{- else }}
    args:
    - istio-iptables
    - -p
    - {{ .MeshConfig.ProxyListenPort | quote }}
    - -z
    - {{ .MeshConfig.ProxyInboundListenPort | quote }}
    - -u
    - {{ ternary 1337 .ProxyUID $tproxy | quote }}
    - -m
    - {{ $mode | quote }}
    - -i
    - {{ $includeRanges | quote }}
    - -x
    - {{ $excludeRanges | quote }}
    - -b
    - {{ $includeInbound | quote }}
    - -d
    - {{ excludeInboundPort "15090" $excludeInbound | excludeInboundPort "15021" | quote }}
    {{- with $includeOutbound }}
    - -q
    - {{ . | quote }}
    {{- end }}
    {{- with $excludeOutbound }}
    - -o
    - {{ . | quote }}
    {{- end }}
    {{- with $reroute }}
    - -k
    - {{ . | quote }}
    {{- end }}
    {{- with $excludeInterfaces }}
    - -c
    - {{ . | quote }}
    {{- end }}
    - {{ print "--log_output_level=" $logging | quote }}
    {{- if .Values.global.logAsJson }}
    - --log_as_json
    {{- end }}
    {{- if .Values.global.nativeNftables }}
    - --native-nftables
    {{- end }}
    {{- if $cni }}
    - --run-validation
    - --skip-rule-apply
    {{- end }}
    {{- end }}
    {{- with .ProxyConfig.ProxyMetadata }}
    env:
    {{- range $name, $value := . }}
    - name: {{ $name | quote }}
      value: {{ $value | quote }}
    {{- end }}
    {{- end }}
    resources: {{ $resources }}
    securityContext:
      allowPrivilegeEscalation: false
      privileged: false
      {{- if $cni }}
      runAsUser: {{ .ProxyUID }}
      runAsGroup: {{ .ProxyGID }}
      runAsNonRoot: true
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
      {{- else }}
      runAsUser: 0
      runAsGroup: 0
      runAsNonRoot: false
      readOnlyRootFilesystem: false
      capabilities: {add: [NET_ADMIN, NET_RAW], drop: [ALL]}
      {{- end }}
      {{- with $proxy.seccompProfile }}
      seccompProfile: {{ . | toJson }}
      {{- end }}
  {{- end }}
  {{- /* A native sidecar is an init container that keeps running; the same container otherwise follows the application's. */}}
  {{- if not $native }}
  containers:
  {{- end }}
  - name: istio-proxy
    image: {{ $image | quote }}
    {{- with .Values.global.imagePullPolicy }}
    imagePullPolicy: {{ . | quote }}
    {{- end }}
    {{- if $native }}
    restartPolicy: Always
    {{- end }}
    args:
    - proxy
    - sidecar
    - --domain
    - {{ dig "clusterDomain" "cluster.local" $proxy | print "$(POD_NAMESPACE).svc." | quote }}
    - {{ dig "logLevel" "warning" $proxy
        | annotation .ObjectMeta "sidecar.istio.io/logLevel" | print "--proxyLogLevel=" | quote }}
    - {{ dig "componentLogLevel" "misc:error" $proxy
        | annotation .ObjectMeta "sidecar.istio.io/componentLogLevel" | print "--proxyComponentLogLevel=" | quote }}
    - {{ print "--log_output_level=" $logging | quote }}
    {{- if .Values.global.logAsJson }}
    - --log_as_json
    {{- end }}
    ports:
    - name: http-envoy-prom
      containerPort: 15090
      protocol: TCP
    env:
    - name: PILOT_CERT_PROVIDER
      value: {{ .Values.global.pilotCertProvider | default "istiod" | quote }}
    - name: CA_ADDR
      value: {{ .Values.global.caAddress | quote }}
    - name: TRUST_DOMAIN
      value: {{ .MeshConfig.TrustDomain | quote }}
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: POD_NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    - name: INSTANCE_IP
      valueFrom: {fieldRef: {fieldPath: status.podIP}}
    - name: HOST_IP
      valueFrom: {fieldRef: {fieldPath: status.hostIP}}
    - name: SERVICE_ACCOUNT
      valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
    - name: ISTIO_META_NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    - name: ISTIO_CPU_LIMIT
      valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
    - name: GOMAXPROCS
      valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
    - name: GOMEMLIMIT
      valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: "1"}}
    - name: PROXY_CONFIG
      value: {{ protoToJSON .ProxyConfig | quote }}
    - name: ISTIO_META_POD_PORTS
      value: {{ $ports | default list | toJson | quote }}
    - name: ISTIO_META_APP_CONTAINERS
      value: {{ $applications | join "," | quote }}
    {{- /* istiod replaces these two where the webhook's path names a cluster or a network. */}}
    - name: ISTIO_META_CLUSTER_ID
      value: {{ dig "multiCluster" "clusterName" "Kubernetes" .Values.global | quote }}
    {{- with .Values.global.network }}
    - name: ISTIO_META_NETWORK
      value: {{ . | quote }}
    {{- end }}
    - name: ISTIO_META_INTERCEPTION_MODE
      value: {{ $mode | quote }}
    - name: ISTIO_META_WORKLOAD_NAME
      value: {{ index $labels "service.istio.io/workload-name" | default .DeploymentMeta.Name | quote }}
    - name: ISTIO_META_OWNER
      value: {{ printf "kubernetes://apis/%s/namespaces/%s/%ss/%s" .TypeMeta.APIVersion
          (.DeploymentMeta.Namespace | default "default") (.TypeMeta.Kind | toLower) .DeploymentMeta.Name | quote }}
    - name: ISTIO_META_MESH_ID
      value: {{ .Values.global.meshID | default .MeshConfig.TrustDomain | quote }}
    {{- if eq .InboundTrafficPolicyMode "localhost" }}
    - name: REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION
      value: "true"
    {{- end }}
    {{- with $bootstrap }}
    - name: ISTIO_BOOTSTRAP_OVERRIDE
      value: /etc/istio/custom-bootstrap/custom_bootstrap.json
    {{- end }}
    {{- with .CompliancePolicy }}
    - name: COMPLIANCE_POLICY
      value: {{ . | quote }}
    {{- if eq . "fips-140-3" }}
    - name: GODEBUG
      value: fips140=only
    {{- end }}
    {{- end }}
    {{- range $name, $value := .ProxyConfig.ProxyMetadata }}
    - name: {{ $name | quote }}
      value: {{ $value | quote }}
    {{- end }}
    {{- /* Status port 0 switches the agent's health server off. */}}
    {{- if ne $statusPort "0" }}
    {{- if dig "startupProbe" "enabled" true $proxy }}
    startupProbe:
      httpGet: {path: /healthz/ready, port: 15021}
      initialDelaySeconds: 0
      periodSeconds: 1
      timeoutSeconds: 3
      failureThreshold: {{ dig "startupProbe" "failureThreshold" 600 $proxy | int }}
    {{- end }}
    readinessProbe:
      httpGet: {path: /healthz/ready, port: 15021}
      initialDelaySeconds: {{ dig "readinessInitialDelaySeconds" 0 $proxy
          | annotation .ObjectMeta "readiness.status.sidecar.istio.io/initialDelaySeconds" | atoi }}
      periodSeconds: {{ dig "readinessPeriodSeconds" 15 $proxy
          | annotation .ObjectMeta "readiness.status.sidecar.istio.io/periodSeconds" | atoi }}
      timeoutSeconds: 3
      failureThreshold: {{ dig "readinessFailureThreshold" 4 $proxy
          | annotation .ObjectMeta "readiness.status.sidecar.istio.io/failureThreshold" | atoi }}
    {{- end }}
    {{- if $proxy.lifecycle }}
    lifecycle: {{ $proxy.lifecycle | toJson }}
    {{- else if $native }}
    lifecycle:
      preStop:
        exec: {command: [pilot-agent, request, {{ print "--debug-port=" $statusPort | quote }}, POST, drain]}
    {{- else if $hold }}
    lifecycle:
      postStart:
        exec: {command: [pilot-agent, wait]}
    {{- end }}
    resources: {{ $resources }}
    securityContext:
      allowPrivilegeEscalation: false
      privileged: false
      readOnlyRootFilesystem: true
      runAsGroup: {{ .ProxyGID }}
      {{- if $tproxy }}
      runAsUser: 0
      runAsNonRoot: false
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
      {{- else }}
      runAsUser: {{ .ProxyUID }}
      runAsNonRoot: true
      capabilities: {drop: [ALL]}
      {{- end }}
      {{- with $proxy.seccompProfile }}
      seccompProfile: {{ . | toJson }}
      {{- end }}
    volumeMounts:
    - name: workload-socket
      mountPath: /var/run/secrets/workload-spiffe-uds
    - name: credential-socket
      mountPath: /var/run/secrets/credential-uds
    - name: workload-certs
      mountPath: /var/run/secrets/workload-spiffe-credentials
    - name: istiod-ca-cert
      mountPath: /var/run/secrets/istio
    - name: istio-ca-crl
      mountPath: /var/run/secrets/istio/crl
    - name: istio-data
      mountPath: /var/lib/istio/data
    - name: istio-envoy
      mountPath: /etc/istio/proxy
    - name: istio-token
      mountPath: /var/run/secrets/tokens
    - name: istio-podinfo
      mountPath: /etc/istio/pod
    {{- with $bootstrap }}
    - name: custom-bootstrap-volume
      mountPath: /etc/istio/custom-bootstrap
    {{- end }}
    {{- range $own.userVolumeMount }}
    - {{ toJson . }}
    {{- end }}
  volumes:
  - name: workload-socket
    emptyDir: {}
  - name: credential-socket
    emptyDir: {}
  - name: workload-certs
    emptyDir: {}
  - name: istiod-ca-cert
    configMap:
      name: istio-ca-root-cert
  - name: istio-ca-crl
    configMap:
      name: istio-ca-crl
      optional: true
  - name: istio-data
    emptyDir: {}
  - name: istio-envoy
    emptyDir:
      medium: Memory
  - name: istio-token
    projected:
      sources:
      - serviceAccountToken:
          audience: istio-ca
          expirationSeconds: 43200
          path: istio-token
  - name: istio-podinfo
    downwardAPI:
      items:
      - path: labels
        fieldRef:
          fieldPath: metadata.labels
      - path: annotations
        fieldRef:
          fieldPath: metadata.annotations
  {{- with $bootstrap }}
  - name: custom-bootstrap-volume
    configMap:
      name: {{ . | quote }}
  {{- end }}
  {{- range $own.userVolume }}
  - {{ toJson . }}
  {{- end }}
  {{- with .Values.global.imagePullSecrets }}
  imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
  {{- end }}
