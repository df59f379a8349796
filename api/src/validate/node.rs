//! Rules of `Node` and `WorkloadEndpoint`.

use ipnet::IpNet;

use super::{Fault, INTERFACE_NAME_LEN_MAX, check_as_number, check_mac, is_unicast};
use crate::endpoint::WorkloadEndpoint;
use crate::node::{Node, NodeBGPSpec};
use crate::node_status::{CalicoNodeStatus, Class, UPDATE_PERIOD_SECONDS_MAX};

pub(crate) fn check_node(node: &Node, faults: &mut Vec<Fault>) {
    let node = &node.spec;
    if let Some(bgp) = &node.bgp {
        check_bgp(bgp, faults);
    }
    let macs = [
        ("spec.vxlanTunnelMACAddr", &node.vxlan_tunnel_mac_addr),
        ("spec.vxlanTunnelMACAddrV6", &node.vxlan_tunnel_mac_addr_v6),
    ];
    for (field, mac) in macs {
        if let Some(mac) = mac {
            check_mac(field, mac, faults);
        }
    }
}

fn check_bgp(bgp: &NodeBGPSpec, faults: &mut Vec<Fault>) {
    if *bgp == NodeBGPSpec::default() {
        faults.push(Fault::absent(
            "spec.bgp.ipv4Address",
            "spec.bgp must hold something, or be absent",
        ));
    }
    let addresses = [
        ("spec.bgp.ipv4Address", bgp.ipv4_address, "IPv4"),
        ("spec.bgp.ipv6Address", bgp.ipv6_address, "IPv6"),
    ];
    for (field, address, family) in addresses {
        let Some(address) = address else { continue };
        let family_fits = matches!(address, IpNet::V4(_)) == (family == "IPv4");
        if !family_fits || !is_unicast(address.addr()) {
            faults.push(Fault::new(
                field,
                &address,
                format!("must be an {family} address that other nodes can send to"),
            ));
        }
    }
    check_as_number("spec.bgp.asNumber", bgp.as_number, faults);
}

pub(crate) fn check_endpoint(endpoint: &WorkloadEndpoint, faults: &mut Vec<Fault>) {
    let endpoint = &endpoint.spec;
    let needed = [
        ("spec.node", &endpoint.node),
        ("spec.endpoint", &endpoint.endpoint),
        ("spec.orchestrator", &endpoint.orchestrator),
        ("spec.interfaceName", &endpoint.interface_name),
    ];
    for (field, value) in needed {
        if value.is_empty() {
            faults.push(Fault::absent(field, "must be given"));
        }
    }
    let name = &endpoint.interface_name;
    let fits = |c: char| !c.is_whitespace() && c != '/' && c != ':';
    if name.len() > INTERFACE_NAME_LEN_MAX || !name.chars().all(fits) {
        faults.push(Fault::new(
            "spec.interfaceName",
            name,
            format!(
                "must be a device name: {INTERFACE_NAME_LEN_MAX} characters at most, no blank, `/` or `:`"
            ),
        ));
    }
    for (index, network) in endpoint.ip_networks.iter().enumerate() {
        if network.prefix_len() != network.max_prefix_len() {
            faults.push(Fault::new(
                format!("spec.ipNetworks[{index}]"),
                network,
                "must be one address: /32, or /128 in IPv6",
            ));
        }
    }
    if !endpoint.mac.is_empty() {
        check_mac("spec.mac", &endpoint.mac, faults);
    }
}

pub(crate) fn check_status(status: &CalicoNodeStatus, faults: &mut Vec<Fault>) {
    let spec = &status.spec;
    for (index, class) in spec.classes.iter().enumerate() {
        if Class::from_name(class).is_none() {
            faults.push(Fault::new(
                format!("spec.classes[{index}]"),
                class,
                "must be Agent, BGP or Routes",
            ));
        }
    }
    if let Some(seconds) = spec.update_period_seconds
        && seconds > UPDATE_PERIOD_SECONDS_MAX
    {
        faults.push(Fault::new(
            "spec.updatePeriodSeconds",
            &seconds,
            format!("must be 0 to {UPDATE_PERIOD_SECONDS_MAX}"),
        ));
    }
}
