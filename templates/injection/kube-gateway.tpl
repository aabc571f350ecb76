{{- /*
What istiod deploys for a Gateway of the class `istio`: five documents, rendered and applied by istiod and owned by the Gateway.
The last two reach the cluster only where the class's defaults or the Gateway's parameters ask for them, and both are laid over
ours by strategic merge: what is left out here (replicas, budgets, metrics) is theirs to choose without contradicting us.
The rules are those of the sidecar's template: fields and functions of every supported minor, and whatever the author of a
Gateway can write goes through quote. Names and namespace are fixed by istiod.
*/}}

{{- $proxy := .Values.global.proxy }}
{{- $image := annotation .ObjectMeta "sidecar.istio.io/proxyImage" .ProxyImage }}
{{- $logging := dig "logging" "level" "default:info" .Values.global | annotation .ObjectMeta "sidecar.istio.io/agentLogLevel" }}
{{- $network := index .InfrastructureLabels "topology.istio.io/network" }}

{{- /* Later maps win: a Gateway may choose how it is scraped and what it is called, and nothing of what istiod goes by. */}}
{{- $identity := strdict
      "gateway.networking.k8s.io/gateway-name" .Name
      "gateway.networking.k8s.io/gateway-class-name" .GatewayClass
      "gateway.istio.io/managed" "istio.io-gateway-controller" }}
{{- $labels := mergeMaps .InfrastructureLabels $identity }}
{{- $podLabels := mergeMaps
      (strdict "service.istio.io/canonical-name" (.DeploymentName | trunc 63 | trimAll "-_.")
               "service.istio.io/canonical-revision" "latest")
      $labels
      (strdict "sidecar.istio.io/inject" "false") }}
{{- $annotations := omit .InfrastructureAnnotations
      "kubectl.kubernetes.io/last-applied-configuration"
      "gateway.istio.io/controller-version"
      "gateway.istio.io/name-override"
      "gateway.istio.io/service-account" }}
{{- $podAnnotations := mergeMaps
      (strdict "prometheus.io/path" "/stats/prometheus" "prometheus.io/port" "15020" "prometheus.io/scrape" "true")
      $annotations
      (strdict "istio.io/rev" (.Revision | default "default") "meshwright.dev/proxy-image" $image) }}

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
      "ISTIO_META_APP_CONTAINERS" ""
      "ISTIO_META_CLUSTER_ID" (dig "multiCluster" "clusterName" .ClusterID .Values.global)
      "ISTIO_META_INTERCEPTION_MODE" (print .ProxyConfig.InterceptionMode)
      "ISTIO_META_MESH_ID" (.Values.global.meshID | default .MeshConfig.TrustDomain)
      "ISTIO_META_OWNER" (printf "kubernetes://apis/apps/v1/namespaces/%s/deployments/%s" .Namespace .DeploymentName)
      "ISTIO_META_POD_PORTS" "[]"
      "ISTIO_META_WORKLOAD_NAME" .DeploymentName
      "PILOT_CERT_PROVIDER" (.Values.global.pilotCertProvider | default "istiod")
      "PROXY_CONFIG" (protoToJSON .ProxyConfig)
      "TRUST_DOMAIN" .MeshConfig.TrustDomain }}
{{- with $network | default .Values.global.network }}{{ $_ := set $env "ISTIO_META_NETWORK" . }}{{ end }}
{{- /* A gateway of a network sends on to that network's endpoints alone. */}}
{{- with $network }}{{ $_ := set $env "ISTIO_META_REQUESTED_NETWORK_VIEW" . }}{{ end }}
{{- /* istiod's own variable: pods have a field for it, Gateways not in every minor. */}}
{{- with env "COMPLIANCE_POLICY" "" }}
{{- $_ := set $env "COMPLIANCE_POLICY" . }}
{{- if eq . "fips-140-3" }}{{ $_ := set $env "GODEBUG" "fips140=only" }}{{ end }}
{{- end }}
{{- range $name, $value := .ProxyConfig.ProxyMetadata }}
{{- $_ := set $env $name $value }}
{{- $_ := unset $fields $name }}
{{- $_ := unset $limits $name }}
{{- end }}

{{- define "map" }}{ {{- range $key, $value := . }}{{ $key | quote }}: {{ $value | quote }}, {{ end -}} }{{ end }}
{{- define "owner" }}[{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: {{ .Name | quote }}, uid: {{ .UID | quote }}}]{{ end }}

apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .ServiceAccount | quote }}
  namespace: {{ .Namespace | quote }}
  labels: {{ template "map" $labels }}
  annotations: {{ template "map" $annotations }}
  ownerReferences: {{ template "owner" . }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .DeploymentName | quote }}
  namespace: {{ .Namespace | quote }}
  labels: {{ template "map" $labels }}
  annotations: {{ template "map" $annotations }}
  ownerReferences: {{ template "owner" . }}
spec:
  selector:
    matchLabels: { {{- .GatewayNameLabel | quote }}: {{ .Name | quote -}} }
  template:
    metadata:
      labels: {{ template "map" $podLabels }}
      annotations: {{ template "map" $podAnnotations }}
    spec:
      serviceAccountName: {{ .ServiceAccount | quote }}
      {{- /* The proxy has a token of its own, for istiod alone. */}}
      automountServiceAccountToken: false
      securityContext:
        {{- /* Ports below 1024 need no capability, in a network namespace where they are not privileged. */}}
        sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
      {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - topologyKey: {{ $key }}
        maxSkew: 1
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels: { {{- $.GatewayNameLabel | quote }}: {{ $.Name | quote -}} }
        matchLabelKeys: [pod-template-hash]
      {{- end }}
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
        - {name: metrics, containerPort: 15020, protocol: TCP}
        - {name: status-port, containerPort: 15021, protocol: TCP}
        - {name: http-envoy-prom, containerPort: 15090, protocol: TCP}
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
        resources: {{ $proxy.resources | default dict | toJson }}
        securityContext:
          allowPrivilegeEscalation: false
          privileged: false
          readOnlyRootFilesystem: true
          runAsUser: {{ .ProxyUID }}
          runAsGroup: {{ .ProxyGID }}
          runAsNonRoot: true
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
      {{- with .Values.global.imagePullSecrets }}
      imagePullSecrets:
      {{- range . }}
      - name: {{ . | quote }}
      {{- end }}
      {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .DeploymentName | quote }}
  namespace: {{ .Namespace | quote }}
  labels: {{ template "map" $labels }}
  annotations: {{ template "map" $annotations }}
  ownerReferences: {{ template "owner" . }}
spec:
  type: {{ .ServiceType | quote }}
  ipFamilyPolicy: PreferDualStack
  {{- if and .Spec.Addresses (eq (print .ServiceType) "LoadBalancer") }}
  loadBalancerIP: {{ (index .Spec.Addresses 0).Value | quote }}
  {{- end }}
  selector: { {{- .GatewayNameLabel | quote }}: {{ .Name | quote -}} }
  ports:
  {{- range .Ports }}
  - name: {{ .Name | quote }}
    port: {{ .Port }}
    protocol: {{ .Protocol | quote }}
    appProtocol: {{ .AppProtocol | toJson }}
  {{- end }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .DeploymentName | quote }}
  namespace: {{ .Namespace | quote }}
  labels: {{ template "map" $labels }}
  annotations: {{ template "map" $annotations }}
  ownerReferences: {{ template "owner" . }}
spec:
  {{- /* Without metrics of its own, an autoscaler goes by 80 % of the requested CPU. */}}
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .DeploymentName | quote }}}
  maxReplicas: 5
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .DeploymentName | quote }}
  namespace: {{ .Namespace | quote }}
  labels: {{ template "map" $labels }}
  annotations: {{ template "map" $annotations }}
  ownerReferences: {{ template "owner" . }}
spec:
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: { {{- .GatewayNameLabel | quote }}: {{ .Name | quote -}} }
