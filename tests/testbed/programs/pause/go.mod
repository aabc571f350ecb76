module meshwright.dev/testbed/pause

go 1.24
