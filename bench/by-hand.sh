#!/usr/bin/env bash
# Two clusters, two networks, one mesh, as Istio's documentation has it for istioctl: what `bench join` is measured beside.
# Needs $ISTIOCTL, $EAST and $WEST (kubeconfigs), $FOLDER, and in it east.yaml and west.yaml for `istioctl install`.
set -euo pipefail
cd "$FOLDER"
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout root-key.pem -out root-cert.pem -subj "/O=Istio/CN=Root CA" 2>/dev/null
for name in east west; do
  mkdir "$name"
  openssl req -newkey rsa:2048 -nodes -keyout "$name/ca-key.pem" -out "$name/ca.csr" -subj "/O=Istio/CN=Intermediate CA/L=$name" 2>/dev/null
  printf 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectAltName=DNS:istiod.istio-system.svc\n' > "$name/extensions"
  openssl x509 -req -in "$name/ca.csr" -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -days 730 -extfile "$name/extensions" -out "$name/ca-cert.pem" 2>/dev/null
  cat "$name/ca-cert.pem" root-cert.pem > "$name/cert-chain.pem"
done
for name in east west; do
  [ "$name" = east ] && export KUBECONFIG=$EAST || export KUBECONFIG=$WEST
  kubectl create namespace istio-system
  kubectl label namespace istio-system "topology.istio.io/network=$name"
  kubectl create secret generic cacerts -n istio-system --from-file="$name/ca-cert.pem" --from-file="$name/ca-key.pem" --from-file=root-cert.pem --from-file="$name/cert-chain.pem"
  "$ISTIOCTL" install --skip-confirmation --filename "$name.yaml"
  kubectl apply -n istio-system -f passthrough.yaml
done
"$ISTIOCTL" create-remote-secret --kubeconfig "$WEST" --name west | kubectl apply --kubeconfig "$EAST" -f -
"$ISTIOCTL" create-remote-secret --kubeconfig "$EAST" --name east | kubectl apply --kubeconfig "$WEST" -f -
