{{- /*
What istiod lays over a pod that asks for `inject.istio.io/templates: gateway`: a Deployment of the mesh's or a user's whose
only container is `istio-proxy` with the image `auto`. Nothing is captured; the proxy itself is the workload.
The rules are those of the sidecar's template: fields and functions of every supported minor, and whatever a pod author can
write goes through quote or toJson. Resources are the Deployment's own business: a default would clash with a request above it.
*/}}

{{- $proxy := .Values.global.proxy }}
{{- $annotations := .ObjectMeta.Annotations }}
{{- $labels := .ObjectMeta.Labels }}
{{- $image := annotation .ObjectMeta "sidecar.istio.io/proxyImage" .ProxyImage }}
{{- $logging := dig "logging" "level" "default:info" .Values.global | annotation .ObjectMeta "sidecar.istio.io/agentLogLevel" }}
{{- $bootstrap := index $annotations "sidecar.istio.io/bootstrapOverride" }}

{{- /* What the pod says itself about its proxy; istiod lays that over ours again. */}}
{{- $pinned := false }}
{{- $root := false }}
{{- $applications := list }}
{{- $ports := list }}
{{- range .Spec.Containers }}
{{- $ports = concat $ports .Ports }}
{{- if ne .Name "istio-proxy" }}
{{- $applications = append $applications .Name }}
{{- else }}
{{- $pinned = not (has .Image (list "" "auto")) }}
{{- with .SecurityContext }}{{ $root = eq (toJson .RunAsUser) "0" }}{{ end }}
{{- end }}
{{- end }}

{{- /* Ports below 1024 need no capability, in a network namespace where they are not privileged. */}}
{{- $privileged := "net.ipv4.ip_unprivileged_port_start" }}
{{- $sysctls := list (dict "name" $privileged "value" "0") }}
{{- $seccomp := dict "type" "RuntimeDefault" | toJson }}
{{- with .Spec.SecurityContext }}
{{- range .Sysctls }}
{{- if ne .Name $privileged }}{{ $sysctls = append $sysctls . }}{{ end }}
{{- end }}
{{- with .SeccompProfile }}{{ $seccomp = toJson . }}{{ end }}
{{- end }}

{{- $canonicalName := index $labels "app" | default (.DeploymentMeta.Name | trunc 63 | trimAll "-_.") }}
{{- $canonicalName = index $labels "app.kubernetes.io/name" | default $canonicalName }}
{{- $canonicalRevision := index $labels "version" | default "latest" }}
{{- $canonicalRevision = index $labels "app.kubernetes.io/version" | default $canonicalRevision }}

{{- /* The environment by name, so that an entry of the proxy's metadata takes the place of ours. */}}
{{- $fields := dict
      "HOST_IP" "status.hostIP"
      "INSTANCE_IP" "status.podIP"
      "ISTIO_META_NODE_NAME" "spec.nodeName"
      "POD_NAME" "metadata.name"
      "POD_NAMESPACE" "metadata.namespace"
      "SERVICE_ACCOUNT" "spec.serviceAccountName" }}
{{- $limits := dict
      "GOMAXPROCS" "limits.cpu"
      "GOMEMLIMIT" "limits.memory"
      "ISTIO_CPU_LIMIT" "limits.cpu" }}
{{- /* A gateway that ends serves what it has begun: until the last connection closes, or the pod's grace period is over. */}}
{{- $env := dict
      "CA_ADDR" .Values.global.caAddress
      "EXIT_ON_ZERO_ACTIVE_CONNECTIONS" "true"
      "ISTIO_META_APP_CONTAINERS" ($applications | join ",")
      "ISTIO_META_CLUSTER_ID" (dig "multiCluster" "clusterName" "Kubernetes" .Values.global)
      "ISTIO_META_INTERCEPTION_MODE" (print .ProxyConfig.InterceptionMode)
      "ISTIO_META_MESH_ID" (.Values.global.meshID | default .MeshConfig.TrustDomain)
      "ISTIO_META_OWNER" (printf "kubernetes://apis/%s/namespaces/%s/%ss/%s" .TypeMeta.APIVersion
          (.DeploymentMeta.Namespace | default "default") (.TypeMeta.Kind | toLower) .DeploymentMeta.Name)
      "ISTIO_META_POD_PORTS" ($ports | default list | toJson)
      "ISTIO_META_WORKLOAD_NAME" (index $labels "service.istio.io/workload-name" | default .DeploymentMeta.Name)
      "PILOT_CERT_PROVIDER" (.Values.global.pilotCertProvider | default "istiod")
      "PROXY_CONFIG" (protoToJSON .ProxyConfig)
      "TRUST_DOMAIN" .MeshConfig.TrustDomain }}
{{- with .Values.global.network }}{{ $_ := set $env "ISTIO_META_NETWORK" . }}{{ end }}
{{- with $bootstrap }}
{{- $_ := set $env "ISTIO_BOOTSTRAP_OVERRIDE" "/etc/istio/custom-bootstrap/custom_bootstrap.json" }}
{{- end }}
{{- with .CompliancePolicy }}
{{- $_ := set $env "COMPLIANCE_POLICY" . }}
{{- if eq . "fips-140-3" }}{{ $_ := set $env "GODEBUG" "fips140=only" }}{{ end }}
{{- end }}
{{- range $name, $value := .ProxyConfig.ProxyMetadata }}
{{- $_ := set $env $name $value }}
{{- $_ := unset $fields $name }}
{{- $_ := unset $limits $name }}
{{- end }}

metadata:
  labels:
    service.istio.io/canonical-name: {{ index $labels "service.istio.io/canonical-name" | default $canonicalName | quote }}
    service.istio.io/canonical-revision: {{ index $labels "service.istio.io/canonical-revision" | default $canonicalRevision | quote }}
  annotations:
    istio.io/rev: {{ .Revision | default "default" | quote }}
    {{- /* Of a pod that pins its proxy's image nobody is to say that it is outdated; null takes out what it claims itself. */}}
    meshwright.dev/proxy-image: {{ if $pinned }}null{{ else }}{{ $image | quote }}{{ end }}
    {{- with first $applications }}
    kubectl.kubernetes.io/default-container: {{ index $annotations "kubectl.kubernetes.io/default-container" | default . | quote }}
    kubectl.kubernetes.io/default-logs-container: {{ index $annotations "kubectl.kubernetes.io/default-logs-container" | default . | quote }}
    {{- end }}
spec:
  securityContext:
    sysctls: {{ $sysctls | toJson }}
    seccompProfile: {{ $seccomp }}
  containers:
  - name: istio-proxy
    image: {{ $image | quote }}
    {{- with .Values.global.imagePullPolicy }}
    imagePullPolicy: {{ . | quote }}
    {{- end }}
    args:
    - proxy
    - router
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
    {{- range $name, $path := $fields }}
    - name: {{ $name | quote }}
      valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
    {{- end }}
    {{- range $name, $resource := $limits }}
    - name: {{ $name | quote }}
      valueFrom: {resourceFieldRef: {resource: {{ $resource }}, divisor: "1"}}
    {{- end }}
    {{- range $name, $value := $env }}
    - name: {{ $name | quote }}
      value: {{ $value | quote }}
    {{- end }}
    {{- /* Asked every second until it is ready, then seldom. */}}
    startupProbe:
      httpGet: {path: /healthz/ready, port: 15021}
      periodSeconds: 1
      timeoutSeconds: 3
      failureThreshold: {{ dig "startupProbe" "failureThreshold" 600 $proxy | int }}
    readinessProbe:
      httpGet: {path: /healthz/ready, port: 15021}
      initialDelaySeconds: {{ dig "readinessInitialDelaySeconds" 0 $proxy | int }}
      periodSeconds: {{ dig "readinessPeriodSeconds" 15 $proxy | int }}
      timeoutSeconds: 3
      failureThreshold: {{ dig "readinessFailureThreshold" 4 $proxy | int }}
    securityContext:
      allowPrivilegeEscalation: false
      privileged: false
      readOnlyRootFilesystem: true
      runAsUser: {{ .ProxyUID }}
      runAsGroup: {{ .ProxyGID }}
      runAsNonRoot: {{ not $root }}
      capabilities: {drop: [ALL]}
    volumeMounts:
    - name: workload-socket
      mountPath: /var/run/secrets/workload-spiffe-uds
    - name: credential-socket
      mountPath: /var/run/secrets/credential-uds
    - name: workload-certs
      mountPath: /var/run/secrets/workload-spiffe-credentials
    - name: istiod-ca-cert
      mountPath: /var/run/secrets/istio
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
  {{- with .Values.global.imagePullSecrets }}
  imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
  {{- end }}
