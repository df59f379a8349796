//! A pool's mode changes while packets run: at no time is there a block without a way that its node accepts.

use super::*;

const BLOCK: &str = "10.1.2.0/26";

fn mode(field: &str, mode: &str) -> serde_json::Value {
    json!({"cidr": "10.1.0.0/16", field: mode})
}

/// A node with the tunnel addresses of these modes.
fn tell(world: &mut World, name: &str, number: u8, fields: &[&str]) {
    let mut modes = json!({});
    for field in fields {
        modes[*field] = json!("Always");
    }
    let address = if name == "n3" {
        "10.9.0.3/24"
    } else {
        "10.0.0.1/24"
    };
    world.put(node_in(&modes, name, address, number));
    world.flush();
}

#[test]
fn a_tunnel_is_used_once_the_other_node_names_its_address() {
    let plain_way = "via 10.0.0.254 dev eth0 proto 12 metric 1024";
    for (field, through) in [
        (
            "vxlanMode",
            "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450",
        ),
        (
            "ipipMode",
            "via 10.9.0.3 dev tunl0 onlink proto 80 mtu 1480",
        ),
    ] {
        let mut world = cluster(plain());
        world.bgp(BLOCK, &["10.9.0.3"]);
        world.put(pool("p", mode(field, "Always")));
        world.flush();
        assert_eq!(fib(&world, BLOCK).as_deref(), Some(plain_way), "{field}");
        let of_block = |world: &World| {
            let problems = world.problems().into_iter();
            problems.filter(|problem| problem.contains(BLOCK)).count()
        };
        assert_eq!(of_block(&world), 1, "{:?}", world.problems());
        // This node takes packets before it names an address of its own.
        let device = if field == "ipipMode" {
            "tunl0"
        } else {
            VXLAN_DEVICE
        };
        assert!(world.rows.contains_key(&RowKey::Link(IfName::from(device))));
        let addr: IpAddr = "10.1.9.9".parse().unwrap();
        let row = RowKey::Addr(crate::desired::AddrKey {
            ifname: IfName::from(device),
            addr: addr.into(),
        });
        assert!(!world.rows.contains_key(&row));
        world.graph.handle_tunnel_addr(device, Some(addr));
        world.flush();
        assert!(world.rows.contains_key(&row), "{field}");
        world.graph.handle_tunnel_addr(device, None);
        world.flush();
        assert!(!world.rows.contains_key(&row), "{field}");
        world.graph.handle_tunnel_addr(device, Some(addr));
        world.put(pool("p", plain()));
        world.flush();
        assert!(!world.rows.contains_key(&row), "no pool asks for it");
        world.put(pool("p", mode(field, "Always")));
        tell(&mut world, "n3", 2, &[field]);
        assert_eq!(fib(&world, BLOCK).as_deref(), Some(through));
        assert_eq!(of_block(&world), 0, "{:?}", world.problems());
    }
}

#[test]
fn a_pool_whose_nodes_get_no_tunnel_address_uses_ipip_at_once() {
    for more in [
        json!({"disabled": true}),
        json!({"allowedUses": ["Workload"]}),
    ] {
        let mut spec = mode("ipipMode", "Always");
        for (name, value) in more.as_object().unwrap() {
            spec[name.as_str()] = value.clone();
        }
        let mut world = cluster(plain());
        world.put(pool("p", spec));
        world.flush();
        let way = fib(&world, BLOCK);
        assert_eq!(
            way.as_deref(),
            Some("via 10.9.0.3 dev tunl0 onlink proto 80 mtu 1480")
        );
    }
}

#[test]
fn from_one_tunnel_to_the_other_the_former_leads_until_the_latter_does() {
    let over_vxlan = "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450";
    let over_ipip = "via 10.9.0.3 dev tunl0 onlink proto 80 mtu 1480";
    for (from, to, before, after) in [
        ("vxlanMode", "ipipMode", over_vxlan, over_ipip),
        ("ipipMode", "vxlanMode", over_ipip, over_vxlan),
    ] {
        let mut world = cluster(mode(from, "Always"));
        assert_eq!(fib(&world, BLOCK).as_deref(), Some(before));
        world.put(pool("p", mode(to, "Always")));
        world.flush();
        assert_eq!(fib(&world, BLOCK).as_deref(), Some(before), "to {to}");
        tell(&mut world, "n3", 2, &[from, to]);
        assert_eq!(fib(&world, BLOCK).as_deref(), Some(after));
        // Both devices take packets until this node names the new address only.
        let device = |name: &str| RowKey::Link(IfName::from(name));
        let has = |world: &World| {
            ["tunl0", VXLAN_DEVICE].map(|name| world.rows.contains_key(&device(name)))
        };
        assert_eq!(has(&world), [true, true]);
        tell(&mut world, "n1", 0, &[to]);
        assert_eq!(has(&world), [to == "ipipMode", to == "vxlanMode"]);
    }
}

#[test]
fn a_pool_without_tunnel_uses_its_former_one_until_bgp_leads_or_the_nodes_give_it_up() {
    for field in ["vxlanMode", "ipipMode"] {
        let mut world = cluster(mode(field, "Always"));
        let before = fib(&world, BLOCK);
        world.put(pool("p", plain()));
        world.flush();
        assert_eq!(fib(&world, BLOCK), before, "{field}");
        assert!(
            world
                .problems()
                .iter()
                .any(|problem| problem.contains("BGP knows no way"))
        );
        world.bgp(BLOCK, &["10.9.0.3"]);
        world.flush();
        let plain_way = Some("via 10.0.0.254 dev eth0 proto 12 metric 1024");
        assert_eq!(fib(&world, BLOCK).as_deref(), plain_way);
        world.bgp(BLOCK, &[]);
        tell(&mut world, "n1", 0, &[]);
        assert_eq!(fib(&world, BLOCK), None);
    }
}

#[test]
fn what_comes_through_a_tunnel_may_be_answered_by_another_way() {
    for (field, device) in [("vxlanMode", VXLAN_DEVICE), ("ipipMode", "tunl0")] {
        let world = cluster(mode(field, "Always"));
        let key = format!("net/ipv4/conf/{device}/rp_filter");
        let key = crate::desired::SysctlKey(key.into());
        assert_eq!(
            world.rows[&RowKey::Sysctl(key.clone())],
            Row::Sysctl(key, "2".into())
        );
    }
}
