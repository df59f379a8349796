//! BIRD's configuration language, as far as the tests write it.

use std::fmt;
use std::net::Ipv4Addr;

/// What every configuration begins with: the log, the devices and their subnets (an iBGP next hop is resolved by them), and the kernel's
/// main table, which gets what BGP learned.
#[must_use]
pub fn head(router_id: Ipv4Addr) -> String {
    format!(
        "log stderr all;\n\
         debug protocols {{ states, events }};\n\
         router id {router_id};\n\
         protocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; }}\n\
         protocol kernel {{ persist; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n"
    )
}

/// A BGP session, printed as a `protocol bgp` block. It gives what it has from static routes and accepts all.
#[derive(Clone, Debug)]
pub struct BgpProtocol<'a> {
    /// Its name in BIRD.
    pub name: &'a str,
    /// BIRD's own address and AS.
    pub local: (Ipv4Addr, u32),
    /// The peer's.
    pub neighbor: (Ipv4Addr, u32),
    /// More statements, e.g. `graceful restart off;`.
    pub options: &'a str,
}

impl fmt::Display for BgpProtocol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            local: (own, own_asn),
            neighbor: (peer, peer_asn),
            options,
        } = self;
        // Short timers: a test waits for the reconnection, not for a minute.
        writeln!(
            f,
            "protocol bgp {name} {{\n\
             local {own} as {own_asn};\n\
             neighbor {peer} as {peer_asn};\n\
             connect delay time 1; connect retry time 2; error wait time 1, 2;\n\
             {options}\n\
             ipv4 {{ import all; export where source = RTS_STATIC; }};\n\
             }}"
        )
    }
}
