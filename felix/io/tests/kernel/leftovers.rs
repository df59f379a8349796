//! What Felix leaves in the packet filter is found and taken out; what is beside it stays.

use std::io::ErrorKind;
use std::process::Command;

use felix::desired::{Leftover, Row, RowKey};
use felix::rules::Family;
use felix_io::Table;

use crate::namespace::kernel_test;
use crate::node::Node;
use crate::rules::nft;

/// Output of a program, words apart by blanks; the test is skipped where it is not installed.
fn run(words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    // The file is the machine's root's also in another user's namespaces.
    let tables = std::fs::read("/proc/net/ip_tables_names");
    if tables.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        harness::skip(
            "iptables",
            "only root may list the tables of iptables-legacy (/proc/net/ip_tables_names)",
        );
    }
    let output = Command::new(words[0])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(&words[1..])
        .output();
    let Ok(output) = output else {
        harness::skip(
            "iptables",
            "no programs `iptables` and `ipset` (packages of these names): what wrote the rules that Felix leaves",
        );
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Rules as a program shows them, with counters; chains without theirs, which count what the kernel itself sends at any time.
fn saved(program: &str) -> Vec<String> {
    let text = run(&format!("{program}-save -c"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let shown = lines.map(|line| match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain,
        _ => line,
    });
    shown.map(str::to_owned).collect()
}

async fn found(node: &Node) -> Vec<Leftover> {
    let rows = node.rows(Table::Leftovers).await.into_keys();
    rows.map(|key| match key {
        RowKey::Leftover(leftover) => leftover,
        other => panic!("{other:?}"),
    })
    .collect()
}

/// Somebody else's rules around and between Felix's; gives what the table is without these.
fn write_rules(program: &str) -> Vec<String> {
    let rule = |words: &str| run(&format!("{program} {words}"));
    for words in [
        "-N KUBE-FORWARD",
        "-A KUBE-FORWARD -i eth9 -m comment --comment kube -j ACCEPT",
        "-A KUBE-FORWARD -i eth8 -j RETURN",
        "-N KUBE-SERVICES",
        "-A KUBE-SERVICES -p tcp -m tcp --dport 99 -j DROP",
        "-A FORWARD -j KUBE-FORWARD",
        "-A FORWARD -j KUBE-SERVICES",
        "-A INPUT -i eth7 -c 11 1100 -j ACCEPT",
        "-P FORWARD DROP",
        "-t nat -A POSTROUTING -o eth9 -j MASQUERADE",
    ] {
        rule(words);
    }
    let without = saved(program);
    for words in [
        "-N cali-FORWARD",
        "-N cali-from-wl-dispatch",
        "-A cali-FORWARD -i cali+ -m comment --comment cali:8ZoYfO5HKXWbB3pk -j cali-from-wl-dispatch",
        "-A cali-from-wl-dispatch -m comment --comment cali:oNIMyTX5sRfSz7Sl -j DROP",
        "-A cali-from-wl-dispatch -j KUBE-SERVICES",
        "-I FORWARD 1 -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD",
        "-I INPUT 1 -j cali-FORWARD",
        "-A FORWARD -m comment --comment cali:S93hcgKJrXEqnTfs -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "-t nat -N cali-POSTROUTING",
        "-t nat -I POSTROUTING 1 -m comment --comment cali:O3lYWMrLQYEMJtB5 -j cali-POSTROUTING",
    ] {
        rule(words);
    }
    without
}

kernel_test!(
    chains_of_felix_go_from_tables_of_iptables_and_nothing_else,
    async {
        let node = Node::new().await;
        assert_eq!(found(&node).await, []);
        for (program, family) in [
            ("iptables-nft", Family::V4),
            ("ip6tables-nft", Family::V6),
            ("iptables-legacy", Family::V4),
            ("ip6tables-legacy", Family::V6),
        ] {
            let without = write_rules(program);
            let leftovers = found(&node).await;
            let leftover = |table: &str| match program.ends_with("-nft") {
                true => Leftover::Chains(family, table.into()),
                false => Leftover::Legacy(family, table.into()),
            };
            let mut wanted = [leftover("filter"), leftover("nat")];
            wanted.sort();
            assert_eq!(leftovers, wanted, "{program}");
            for leftover in leftovers {
                node.remove(Row::Leftover(leftover.clone())).await;
                // Gone already.
                node.remove(Row::Leftover(leftover)).await;
            }
            assert_eq!(found(&node).await, [], "{program}");
            assert_eq!(saved(program), without);
        }
    }
);

kernel_test!(sets_and_the_arp_table_of_felix_go_too, async {
    let node = Node::new().await;
    if nft(&["add", "table", "arp", "calico-arp"]).is_none() {
        harness::skip("nft", "no program `nft` (package nftables)");
    }
    run("nft add table arp foreign");
    run("ipset create cali40masq-ipam-pools hash:net");
    run("ipset create mine hash:net");
    run("iptables-legacy -t nat -N cali-nat-outgoing");
    run(
        "iptables-legacy -t nat -A cali-nat-outgoing -m set --match-set cali40masq-ipam-pools src -j MASQUERADE",
    );
    let leftovers = found(&node).await;
    let set = Leftover::IpSet("cali40masq-ipam-pools".into());
    let nat = Leftover::Legacy(Family::V4, "nat".into());
    assert_eq!(leftovers, [Leftover::ArpTable, nat.clone(), set.clone()]);
    let early = node.try_op(felix::kernel::Op::Remove(Row::Leftover(set)));
    assert!(early.await.is_err(), "a rule asks the set");
    for leftover in leftovers {
        node.remove(Row::Leftover(leftover)).await;
    }
    assert_eq!(found(&node).await, []);
    assert_eq!(run("ipset list -n").trim(), "mine");
    assert_eq!(run("nft list tables arp").trim(), "table arp foreign");
});

kernel_test!(chains_that_drop_what_is_forwarded_are_named, async {
    let node = Node::new().await;
    assert_eq!(node.kernel.dropping().await, Vec::<String>::new());
    run("iptables-legacy -P FORWARD DROP");
    run("iptables-legacy -P INPUT DROP");
    run("ip6tables-legacy -N other");
    run("iptables-nft -P FORWARD DROP");
    run("nft add table inet firewall");
    run(
        "nft add chain inet firewall forward { type filter hook forward priority 0 ; policy drop ; }",
    );
    run("nft add chain inet firewall input { type filter hook input priority 0 ; policy drop ; }");
    run(
        "nft add chain inet firewall more { type filter hook forward priority 1 ; policy accept ; }",
    );
    assert_eq!(
        node.kernel.dropping().await,
        [
            "iptables-legacy table filter chain FORWARD",
            "nftables chain ip filter FORWARD",
            "nftables chain inet firewall forward",
        ]
    );
});
