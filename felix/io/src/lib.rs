//! Planned kernel operations carried out: netlink, sysctl, namespaces, veth.
