"""The MeshInstall as typed Python: the single source of the CRD, the reference pages and the CLI's checks."""
