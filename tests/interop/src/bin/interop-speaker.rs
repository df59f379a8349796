//! Our speaker with one external session, as a process of its own, so that a test can kill it:
//! `interop-speaker OWN-AS OWN-ADDRESS PEER-AS PEER-ADDRESS PREFIX...`

use std::io;
use std::net::Ipv4Addr;
use std::str::FromStr;

use interop::{Begin, OurSpeaker, config, peer};
use ipnet::IpNet;
use lab::NetNs;

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let own_as: u32 = next(&mut words)?;
    let own: Ipv4Addr = next(&mut words)?;
    let peer_as: u32 = next(&mut words)?;
    let far: Ipv4Addr = next(&mut words)?;
    let prefixes: Result<Vec<IpNet>, _> = words.map(|word| word.parse()).collect();
    let prefixes = prefixes.map_err(io::Error::other)?;
    let here = NetNs::current("speaker")?;
    let settings = config(own_as, own, [peer(far, peer_as, own)]);
    let _speaker = OurSpeaker::start(&here, Begin::Fresh, settings, &prefixes)?;
    loop {
        std::thread::park();
    }
}

fn next<T: FromStr>(words: &mut impl Iterator<Item = String>) -> io::Result<T> {
    let word = words.next().unwrap_or_default();
    word.parse()
        .map_err(|_| io::Error::other(format!("{word:?} is not what is expected")))
}
