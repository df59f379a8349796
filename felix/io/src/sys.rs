//! The one place for unsafe code.
#![expect(
    unsafe_code,
    reason = "tokio registers a descriptor on the caller's word only; rustix has no call for a namespace's type, for options of \
              iptables and for settings of a device's hardware"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use netlink_sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a socket for readiness with the current tokio runtime.
pub(crate) fn readable(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor from `socket(2)`, gives out the same one on each call and
    // closes it in `drop` only; the AsyncFd owns the `Socket` and nobody clones it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// `NS_GET_NSTYPE` of linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The `CLONE_NEW…` flag of a namespace's type; the descriptor must be one of a namespace.
pub(crate) fn namespace_type(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: ioctl_nsfs(2): this request takes no argument and writes to no memory; the descriptor is open for the
    // whole call, as it is borrowed.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) } {
        -1 => Err(io::Error::last_os_error()),
        flag => Ok(flag),
    }
}

/// Reads an option of a socket into `buffer`, which the caller has filled with what is asked; its length as the kernel says it.
pub(crate) fn socket_option(
    socket: BorrowedFd<'_>,
    (level, name): (i32, i32),
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut length = option_length(buffer.len())?;
    // SAFETY: getsockopt(2): the kernel writes at most `length` bytes to the buffer, which has that many and is borrowed for the
    // whole call, and the new length to `length`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    outcome(done).map(|()| usize::try_from(length).unwrap_or(0))
}

/// Sets an option of a socket.
pub(crate) fn set_socket_option(
    socket: BorrowedFd<'_>,
    option: (i32, i32),
    value: &[u8],
) -> io::Result<()> {
    let length = option_length(value.len())?;
    // SAFETY: `set_option` asks for `length` bytes at `value`, which is borrowed for the whole call. No option that this package sets
    // by this function has a pointer in its value.
    unsafe { set_option(socket.as_raw_fd(), option, value.as_ptr(), length) }
}

/// Where `struct ipt_replace` has the pointer to counters, and their number.
const COUNTERS_AT: usize = 88;
const COUNT_AT: usize = 84;
/// Bytes of `struct ipt_replace` without its entries, and of `struct xt_counters`.
pub(crate) const REPLACE_BYTES: usize = (COUNTERS_AT + size_of::<usize>()).next_multiple_of(8);
pub(crate) const COUNTER_BYTES: usize = 16;

/// Replaces a table of iptables: `value` is a `struct ipt_replace` with its entries. The counters of the former entries go to
/// `counters`; their number must be right.
pub(crate) fn replace_xtables(
    socket: BorrowedFd<'_>,
    option: (i32, i32),
    value: &mut [u8],
    counters: &mut [u8],
) -> io::Result<()> {
    let length = option_length(value.len())?;
    let count = u32::try_from(counters.len() / COUNTER_BYTES)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let pointer = counters.as_mut_ptr().expose_provenance();
    let head = value
        .get_mut(..REPLACE_BYTES)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    head[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_ne_bytes());
    head[COUNTERS_AT..COUNTERS_AT + size_of::<usize>()].copy_from_slice(&pointer.to_ne_bytes());
    // SAFETY: `length` bytes at `value` are borrowed for the whole call. The pointer inside is to `counters`, also borrowed for the
    // whole call, to which the kernel writes `count` elements of 16 bytes: no more than it has.
    unsafe { set_option(socket.as_raw_fd(), option, value.as_ptr(), length) }
}

/// # Safety
/// `value` must be readable for `length` bytes, and pointers in it must be valid for what the option does with them.
unsafe fn set_option(
    socket: RawFd,
    (level, name): (i32, i32),
    value: *const u8,
    length: libc::socklen_t,
) -> io::Result<()> {
    // SAFETY: setsockopt(2); as the caller promises.
    outcome(unsafe { libc::setsockopt(socket, level, name, value.cast(), length) })
}

fn option_length(bytes: usize) -> io::Result<libc::socklen_t> {
    bytes
        .try_into()
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn outcome(done: i32) -> io::Result<()> {
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM`.
const GET_TX_CHECKSUMS: u32 = 0x16;
const SET_TX_CHECKSUMS: u32 = 0x17;

/// Whether a device, or its hardware, computes the checksums of what it sends (`ethtool -k`: tx-checksumming). Any socket will do.
pub(crate) fn computes_checksums(socket: BorrowedFd<'_>, device: &str) -> io::Result<bool> {
    ethtool(socket, device, GET_TX_CHECKSUMS, 0).map(|on| on != 0)
}

/// Leaves no checksum to a device (`ethtool -K DEVICE tx off`). The kernel notifies the device, as with each of its changes.
pub(crate) fn leave_no_checksums(socket: BorrowedFd<'_>, device: &str) -> io::Result<()> {
    ethtool(socket, device, SET_TX_CHECKSUMS, 0).map(drop)
}

fn ethtool(socket: BorrowedFd<'_>, device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    let mut name = [0; libc::IFNAMSIZ];
    // The last octet stays 0.
    for (place, octet) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(device.bytes()) {
        *place = octet.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: netdevice(7), SIOCETHTOOL: the kernel reads the name, which ends with a 0, and reads and writes one `struct ethtool_value`
    // at the pointer for both commands; both live until the call is over. The descriptor is borrowed for the whole call.
    outcome(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })?;
    Ok(value.data)
}

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
