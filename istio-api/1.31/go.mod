// Pins the Istio API module from which the wheel takes Istio's CRDs and the fields of the mesh config at build time (see hatch_build.py).
module meshwright.dev/istio-api

go 1.24

require istio.io/api v1.31.4
