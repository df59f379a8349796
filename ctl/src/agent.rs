//! The agent of this node, over its admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use api::admin::{Peer, Problem, Route, Setting, Status};
use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::{Accept, Agent, Bgp, BgpCommand, Format};
use crate::output;
use crate::print::{out, outln};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `tortiectl bgp …`.
pub(crate) fn bgp(bgp: &Bgp) -> anyhow::Result<()> {
    match &bgp.command {
        BgpCommand::Peers(agent) => peers(agent),
        BgpCommand::Routes(agent) => routes(agent),
    }
}

/// GET over the socket.
fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let body = ask_text(socket, path)?;
    serde_json::from_str(&body).with_context(|| format!("{}{path}", socket.display()))
}

/// GET over the socket.
pub(crate) fn ask_text(socket: &Path, path: &str) -> anyhow::Result<String> {
    request(socket, "GET", path)
}

/// `tortiectl datastore accept`.
pub(crate) fn accept_datastore(accept: &Accept) -> anyhow::Result<()> {
    let agent = &accept.agent;
    if UnixStream::connect(&agent.socket).is_err() {
        // An agent that starts waits for this before it opens its socket.
        std::fs::remove_file(&accept.note).with_context(|| {
            format!(
                "no agent answers on {} and none waits: {}",
                agent.socket.display(),
                accept.note.display()
            )
        })?;
        outln!("Datastore accepted; the agent goes on starting.");
        return Ok(());
    }
    request(&agent.socket, "POST", "/datastore/accept")?;
    outln!("Datastore accepted: what pods here hold is written back, then the agent goes on.");
    Ok(())
}

/// A request over the socket: HTTP/1.0, so that the answer ends with the connection.
fn request(socket: &Path, method: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "Calico process is not running: no answer on {} (is tortie-node running on this node?)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{}: no HTTP answer", socket.display());
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!(
            "{}{path}: status {status}: {}",
            socket.display(),
            body.trim()
        );
    }
    Ok(body.to_owned())
}

/// What `node status` prints as data.
#[derive(Serialize)]
struct NodeStatus {
    status: Status,
    peers: Vec<Peer>,
    problems: Vec<Problem>,
}

/// `tortiectl node status`.
pub(crate) fn status(agent: &Agent) -> anyhow::Result<()> {
    let all = NodeStatus {
        status: ask(&agent.socket, "/status")?,
        peers: ask(&agent.socket, "/bgp/peers")?,
        problems: ask(&agent.socket, "/problems")?,
    };
    if !matches!(agent.output, Format::Ps | Format::Wide) {
        return output::data(&all, agent.output);
    }
    outln!("Calico process is running.\n");
    for (family, wanted) in [("IPv4", true), ("IPv6", false)] {
        let peers: Vec<&Peer> = all
            .peers
            .iter()
            .filter(|peer| peer.address.is_ipv4() == wanted)
            .collect();
        if peers.is_empty() {
            outln!("No {family} peers found.\n");
            continue;
        }
        outln!("{family} BGP status");
        outln!("{}\n", status_grid(&peers));
    }
    let status = &all.status;
    let yes = |it: bool| if it { "yes" } else { "not yet" };
    outln!("Node {}, started {}", status.node, status.started);
    let chosen = match status.backend.as_str() {
        "vxlan" | "none" => format!("no BGP (CALICO_NETWORKING_BACKEND={})", status.backend),
        _ => format!("BGP routes chosen: {}", yes(status.bgp_selection_complete)),
    };
    outln!(
        "Datastore read: {}. Kernel written: {}. {chosen}. Pods: {}. Rows not in the kernel: {}.",
        yes(status.datastore_in_sync),
        yes(status.dataplane_in_sync),
        status.local_endpoints,
        status.rows_pending
    );
    for problem in &all.problems {
        outln!("Problem: {}: {}", problem.subject, problem.reason);
    }
    Ok(())
}

fn status_grid(peers: &[&Peer]) -> Table {
    let mut grid = Table::new();
    grid.load_style(ASCII_FULL_CONDENSED);
    grid.set_header(["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]);
    for peer in peers {
        let up = peer.state == "Established";
        let info = match (&peer.last_error, up) {
            (Some(error), false) => format!("{}: {error}", peer.state),
            _ => peer.state.clone(),
        };
        grid.add_row([
            peer.address.to_string(),
            peer.peer_type.clone(),
            if up { "up" } else { "start" }.to_owned(),
            peer.since.clone(),
            info,
        ]);
    }
    grid
}

/// `tortiectl node config`.
pub(crate) fn config(agent: &Agent) -> anyhow::Result<()> {
    let settings: Vec<Setting> = ask(&agent.socket, "/config")?;
    if !matches!(agent.output, Format::Ps | Format::Wide) {
        return output::data(&settings, agent.output);
    }
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|setting| vec![setting.name, setting.value, setting.origin])
        .collect();
    out!("{}", output::table(&["VARIABLE", "VALUE", "ORIGIN"], &rows));
    Ok(())
}

fn peers(agent: &Agent) -> anyhow::Result<()> {
    let peers: Vec<Peer> = ask(&agent.socket, "/bgp/peers")?;
    if !matches!(agent.output, Format::Ps | Format::Wide) {
        return output::data(&peers, agent.output);
    }
    let rows: Vec<Vec<String>> = peers.iter().map(peer_row).collect();
    let headings = [
        "NAME",
        "ADDRESS",
        "ASN",
        "STATE",
        "SINCE",
        "RECEIVED",
        "ACCEPTED",
        "ADVERTISED",
        "LAST ERROR",
    ];
    out!("{}", output::table(&headings, &rows));
    Ok(())
}

/// The session, and which of its paths of the prefix it is, where there may be several.
fn learned_from(path: &api::admin::Path) -> String {
    match (&path.peer, path.path_id) {
        (Some(peer), Some(id)) => format!("{peer} path {id}"),
        (Some(peer), None) => peer.clone(),
        (None, _) => "(own)".to_owned(),
    }
}

fn peer_row(peer: &Peer) -> Vec<String> {
    let sum = |count: fn(&api::admin::PrefixCounts) -> usize| {
        peer.prefixes.values().map(count).sum::<usize>().to_string()
    };
    vec![
        peer.name.clone(),
        peer.address.to_string(),
        peer.asn.to_string(),
        peer.state.clone(),
        peer.since.clone(),
        sum(|counts| counts.received),
        sum(|counts| counts.accepted),
        sum(|counts| counts.advertised),
        peer.last_error.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn routes(agent: &Agent) -> anyhow::Result<()> {
    let routes: Vec<Route> = ask(&agent.socket, "/bgp/routes")?;
    if !matches!(agent.output, Format::Ps | Format::Wide) {
        return output::data(&routes, agent.output);
    }
    let mut rows = Vec::new();
    for route in &routes {
        for path in &route.paths {
            rows.push(vec![
                route.prefix.to_string(),
                path.next_hop
                    .map_or_else(|| "self".to_owned(), |hop| hop.to_string()),
                learned_from(path),
                if path.as_path.is_empty() {
                    "-".to_owned()
                } else {
                    path.as_path.clone()
                },
                path.local_pref.to_string(),
                path.standing.clone(),
                if path.stale { "stale" } else { "" }.to_owned(),
            ]);
        }
    }
    let headings = [
        "PREFIX",
        "NEXT HOP",
        "LEARNED FROM",
        "AS PATH",
        "LOCAL PREF",
        "STANDING",
        "",
    ];
    out!("{}", output::table(&headings, &rows));
    Ok(())
}
