//! Socket options that `socket2` does not have: TCP MD5 signatures (RFC 2385) and least accepted TTL (RFC 5082).
#![expect(unsafe_code, reason = "setsockopt with structures of the kernel")]

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use bgp::config::Password;
use ipnet::IpNet;
use libc::c_int;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; libc::TCP_MD5SIG_MAXKEYLEN],
}

/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: the key is for a prefix of addresses.
const FLAG_PREFIX: u8 = 1;

/// Signs and checks segments to and from `peers` with the key; `None` removes it. On a connection that stands, the key is in
/// force from the next segment on, resent ones included: until the far end has the same, each end drops what the other
/// one sends, and TCP sends it again (RFC 2385 lets a key change while both ends agree on it).
///
/// # Errors
/// The system's, and `InvalidInput` for a key longer than 80 bytes.
pub(crate) fn set_md5(
    socket: &impl AsFd,
    peers: IpNet,
    password: Option<&Password>,
) -> io::Result<()> {
    let key = password.map_or(&[] as &[u8], |password| password.0.as_bytes());
    let mut option = TcpMd5Sig {
        address: storage(peers.network()),
        flags: 0,
        prefix_length: 0,
        key_length: 0,
        interface: 0,
        key: [0; libc::TCP_MD5SIG_MAXKEYLEN],
    };
    let Some(place) = option.key.get_mut(..key.len()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("TCP MD5 key of {} bytes: at most 80 are allowed", key.len()),
        ));
    };
    place.copy_from_slice(key);
    option.key_length = u16::try_from(key.len()).expect("at most 80");
    let mut name = libc::TCP_MD5SIG;
    if peers.prefix_len() < peers.max_prefix_len() {
        name = libc::TCP_MD5SIG_EXT;
        option.flags = FLAG_PREFIX;
        option.prefix_length = peers.prefix_len();
    }
    match set(socket, libc::IPPROTO_TCP, name, &option) {
        // There was no key to remove.
        Err(error) if password.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Drops segments that arrive with a lower TTL (hop limit).
///
/// # Errors
/// The system's.
pub(crate) fn set_ttl_min(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let value = c_int::from(ttl);
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &value),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &value),
    }
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let address = socket2::SockAddr::from(std::net::SocketAddr::new(address, 0));
    // SAFETY: `sockaddr_storage` is plain data for which all zeroes is a value; `address` is at most as long.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            address.len() as usize,
        );
        storage
    }
}

fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of::<T>()).expect("options are small");
    // SAFETY: the pointer and length describe `value`, which lives over the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::socket;

    #[tokio::test]
    async fn keys_of_addresses_and_ranges_of_both_families_are_set_and_removed() {
        let key = Password("secret".into());
        for (own, peers) in [
            ("127.0.0.1", "192.0.2.1/32"),
            ("127.0.0.1", "192.0.2.0/24"),
            ("::1", "2001:db8::1/128"),
            ("::1", "2001:db8::/64"),
        ] {
            let address = SocketAddr::new(own.parse().unwrap(), 0);
            let listener = socket::listen(address, socket::Port::Exclusive).unwrap();
            let peers: IpNet = peers.parse().unwrap();
            match set_md5(&listener, peers, Some(&key)) {
                Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                    println!(
                        "skipped: md5: this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG)"
                    );
                    assert!(std::env::var_os("CI").is_none(), "nothing is skipped in CI");
                    return;
                }
                result => result.unwrap(),
            }
            // The second time there is none.
            for _ in 0..2 {
                set_md5(&listener, peers, None).unwrap();
            }
        }
    }
}
