//! Nodes, racks and pods as network namespaces on one machine.
