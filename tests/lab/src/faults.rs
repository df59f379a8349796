//! What may befall a node without a packet noticing: each in turn on a running cluster, under [`Traffic`].

use std::error::Error;
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::cluster::Lab;
use crate::netlink::{Netlink, NetlinkError};
use crate::netns::NetNs;
use crate::proof::claim::describe;
use crate::topology::Site;
use crate::traffic::Traffic;

/// How long an agent is away: long enough for its peers to notice and for packets to be lost if anything was.
const AWAY: Duration = Duration::from_secs(1);
/// How long an interface is down, or without address: long enough for its agent and the others' to do something about it.
const CUT_OFF: Duration = Duration::from_millis(300);
/// The same happens so often: how quickly it heals shows at the quickest, as machines are shared.
const CUTS: usize = 3;
/// Most pods that a node may need until it claims another block.
const PODS_MAX: usize = 70;
/// A machine's device towards its rack.
const UNDERLAY: &str = "eth0";

/// In words: what could not be done, or what a kernel lacks afterwards.
type Outcome = Result<(), String>;
type Fault = fn(&mut Lab, &mut Traffic) -> Outcome;

/// What befalls the cluster, in this order.
const FAULTS: [(&str, Fault); 7] = [
    ("an agent is killed and comes back", killed),
    ("an agent is asked to end and comes back", stopped),
    ("an agent comes back to another desired state", changed),
    ("notifications of the kernel are lost", overrun),
    ("the netmask of an interface changes", netmask),
    ("an interface goes down and comes back", down),
    (
        "an interface loses its addresses and gets them back",
        addresses,
    ),
];

/// Gives the cluster pods and lets everything befall it in turn; after each, sessions and kernels must be as they are wanted.
///
/// # Panics
/// When something could not be done, or a packet noticed.
pub fn go_unnoticed(mut lab: Lab) {
    lab.fill_pods(2)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    // One that goes again.
    lab.add_pod(lab.topology.sites.len() - 1)
        .unwrap_or_else(|error| panic!("{error}"));
    lab.converge().unwrap_or_else(|error| panic!("{error}"));
    let mut traffic = Traffic::start(&lab).expect("pods take packets");
    let befell = all(&mut lab, &mut traffic);
    let lost = traffic.finish().expect("senders go on");
    assert_eq!((befell, lost), (Ok(()), Vec::<String>::new()));
    assert_eq!(lab.prove().faults, Vec::<String>::new());
}

fn all(lab: &mut Lab, traffic: &mut Traffic) -> Outcome {
    for (name, befall) in FAULTS {
        let began = Instant::now();
        traffic.befalls(name);
        befall(lab, traffic)
            .and_then(|()| settle(lab, traffic))
            .map_err(|error| format!("{name}: {error}"))?;
        println!("{name}: {:?}", began.elapsed());
    }
    Ok(())
}

fn settle(lab: &mut Lab, traffic: &Traffic) -> Outcome {
    lab.converge()?;
    // The first packet after a fault may have to wait for a neighbour's answer that was lost: it is late, and lost only if the next fault
    // meets it.
    if traffic.flows(lab.options.patience) {
        Ok(())
    } else {
        Err("not all packets flow again".to_owned())
    }
}

fn said(error: impl Error) -> String {
    describe(&error)
}

fn killed(lab: &mut Lab, _: &mut Traffic) -> Outcome {
    lab.kill_agent(0).map_err(said)?;
    // Nothing tells that a packet was not lost: this is how long the agent is away.
    std::thread::sleep(AWAY);
    lab.restart_agent(0).map_err(said)
}

fn stopped(lab: &mut Lab, _: &mut Traffic) -> Outcome {
    let status = lab.terminate_agent(1).map_err(said)?;
    if !status.success() {
        return Err(status.to_string());
    }
    // As above.
    std::thread::sleep(AWAY);
    lab.restart_agent(1).map_err(said)
}

/// While the first agent is dead, the second node gets a block more, the last loses a pod, and a setting changes packet rules.
fn changed(lab: &mut Lab, _: &mut Traffic) -> Outcome {
    lab.kill_agent(0).map_err(said)?;
    lab.delete_pods_after(lab.pods.len() - 1)
        .map_err(|errors| format!("{errors:?}"))?;
    let blocks = lab.blocks().len();
    for _ in 0..PODS_MAX {
        if lab.blocks().len() > blocks {
            break;
        }
        lab.add_pod(1).map_err(said)?;
    }
    let spec = r#"{"spec":{"natPortRange":"40000:50000"}}"#;
    lab.patch_as_operator("felixconfiguration", "default", spec)?;
    lab.restart_agent(0).map_err(said)
}

/// More is notified than the frozen agent's socket holds; that its own block's route goes meanwhile is among what is lost.
fn overrun(lab: &mut Lab, _: &mut Traffic) -> Outcome {
    let site = &lab.topology.sites[0];
    let own = lab
        .blocks()
        .into_iter()
        .filter(|(_, owner)| owner.name == site.name)
        .map(|(block, _)| block);
    let own: Vec<_> = own.collect();
    let before = dropped(&site.namespace)?;
    let mut netlink = open(site)?;
    netlink.add_bridge("churned").map_err(said)?;
    lab.freeze_agent(0).map_err(said)?;
    let deadline = Instant::now() + lab.options.patience;
    let lossless = || dropped(&site.namespace).is_ok_and(|now| now <= before);
    let churned = netlink
        .churn("churned", || lossless() && Instant::now() < deadline)
        .map_err(said);
    let lost = !lossless();
    let gone = own
        .into_iter()
        .try_for_each(|block| netlink.delete_route(block).map_err(said));
    lab.thaw_agent(0).map_err(said)?;
    churned.and(gone)?;
    if lost {
        Ok(())
    } else {
        Err("the kernel dropped no notification".to_owned())
    }
}

/// How many messages the kernel could not give to the sockets of a namespace: the last column but one of /proc/net/netlink.
fn dropped(namespace: &NetNs) -> Result<u64, String> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netlink");
    let text = namespace.run(read).map_err(said)?;
    let drops = text.lines().skip(1).map(|line| {
        let column = line.split_whitespace().nth(8);
        column.and_then(|drops| drops.parse::<u64>().ok())
    });
    drops
        .sum::<Option<u64>>()
        .ok_or_else(|| format!("not understood: {text}"))
}

/// To a longer mask and back, the new address before the old one goes. IPv6 has no such thing: it has an address once, with one length.
fn netmask(lab: &mut Lab, _: &mut Traffic) -> Outcome {
    let site = &lab.topology.sites[0];
    let Some(wide) = site.net4() else {
        return Ok(());
    };
    let narrow = Ipv4Net::new(wide.addr(), wide.prefix_len() + 1).map_err(said)?;
    let mut netlink = open(site)?;
    for (old, new) in [(wide, narrow), (narrow, wide)] {
        netlink.add_address(UNDERLAY, new).map_err(said)?;
        netlink.delete_address(UNDERLAY, old).map_err(said)?;
        // As above.
        std::thread::sleep(CUT_OFF);
    }
    Ok(())
}

fn down(lab: &mut Lab, traffic: &mut Traffic) -> Outcome {
    cut_off(
        lab,
        traffic,
        "an interface goes down and comes back",
        |site, netlink| {
            netlink.set_down(UNDERLAY)?;
            // As above.
            std::thread::sleep(CUT_OFF);
            netlink.set_up(UNDERLAY)?;
            // The kernel takes addresses of IPv6 away from an interface that goes down.
            site.net6()
                .map_or(Ok(()), |net| netlink.add_address6(UNDERLAY, net))
        },
    )
}

fn addresses(lab: &mut Lab, traffic: &mut Traffic) -> Outcome {
    let name = "an interface loses its addresses and gets them back";
    cut_off(lab, traffic, name, |site, netlink| {
        let (v4, v6) = (site.net4(), site.net6());
        let each4 = |netlink: &mut Netlink, change: Change<Ipv4Net>| {
            v4.map_or(Ok(()), |net| change(netlink, UNDERLAY, net))
        };
        let each6 = |netlink: &mut Netlink, change: Change<Ipv6Net>| {
            v6.map_or(Ok(()), |net| change(netlink, UNDERLAY, net))
        };
        each4(netlink, Netlink::delete_address)?;
        each6(netlink, Netlink::delete_address6)?;
        // As above.
        std::thread::sleep(CUT_OFF);
        each4(netlink, Netlink::add_address)?;
        each6(netlink, Netlink::add_address6)
    })
}

type Change<A> = fn(&mut Netlink, &str, A) -> Result<(), NetlinkError>;

/// Cuts the last node off, again and again. What the node's operator has to put back after that is put back: its default routes.
fn cut_off(
    lab: &mut Lab,
    traffic: &mut Traffic,
    name: &str,
    cut: impl Fn(&Site, &mut Netlink) -> Result<(), NetlinkError>,
) -> Outcome {
    for number in 0..CUTS {
        if number > 0 {
            settle(lab, traffic)?;
        }
        let site = lab.topology.sites.last().ok_or("no nodes")?;
        let mut netlink = open(site)?;
        traffic.cuts_off(name, &site.name);
        cut(site, &mut netlink).map_err(said)?;
        // Both ends of its cable: a switch takes nothing in before.
        let switch = &lab.topology.racks[usize::from(site.rack) - 1].switch;
        for (end, link) in [(&site.namespace, UNDERLAY), (switch, &*site.name)] {
            end.wait_link_up(link, lab.options.patience).map_err(said)?;
        }
        lab.topology.add_default_routes(site).map_err(said)?;
        traffic.is_back();
    }
    Ok(())
}

fn open(site: &Site) -> Result<Netlink, String> {
    site.namespace.netlink().map_err(said)
}
