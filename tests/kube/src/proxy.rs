//! The way to a server, with weather: what passes may be late, be held back, or be cut off.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What happens to octets on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// They pass.
    Fair,
    /// They pass, each chunk so much later, in both directions.
    Slow(Duration),
    /// Answers pass so many octets at a time, with so much time in between.
    Trickle(usize, Duration),
    /// Requests pass and answers are held back: what was asked is done, and nobody hears of it.
    AnswersHeld,
    /// Nothing passes, nothing is closed: as behind a firewall that forgot the connection.
    Silent,
    /// Open connections are closed, and new ones at once.
    Cut,
}

/// A TCP proxy in front of a server. It ends with the last connection after it was dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// Both ends of every connection, to be closed; `None` after the proxy was dropped.
    open: Option<Vec<TcpStream>>,
    accepted: u64,
}

/// Which way octets go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// Listens on loopback of the calling thread's network namespace, and connects from there.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), server)
    }

    /// The same, listening on another address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start_at(address: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let accepting = listener.try_clone()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                weather: Weather::Fair,
                open: Some(Vec::new()),
                accepted: 0,
            }),
            changed: Condvar::new(),
        });
        let given = shared.clone();
        thread::spawn(move || {
            for client in accepting.incoming() {
                // A client that is gone already is no client; after the end nobody is.
                let taken =
                    client.map_or_else(|_| given.stands(), |client| given.take(client, server));
                if !taken {
                    return;
                }
            }
        });
        Ok(Self {
            address,
            listener,
            shared,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL of an API server behind it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        let mut state = self.shared.lock();
        state.weather = weather;
        if weather == Weather::Cut {
            close(state.open.iter_mut().flat_map(|open| open.drain(..)));
        }
        self.shared.changed.notify_all();
    }

    /// How many connections clients have made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.lock().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        close(self.shared.lock().open.take().into_iter().flatten());
        self.shared.changed.notify_all();
        // Wakes the accepting thread, in whatever namespace it is; without one there is nothing to wake.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

fn close(streams: impl Iterator<Item = TcpStream>) {
    for stream in streams {
        // The other side may have closed it before.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the proxy still stands.
    fn take(self: &Arc<Self>, client: TcpStream, server: SocketAddr) -> bool {
        let mut state = self.lock();
        let Some(open) = &mut state.open else {
            return false;
        };
        // Closed ones of before are of no more use.
        open.retain(|stream| stream.peer_addr().is_ok());
        state.accepted += 1;
        if state.weather == Weather::Cut {
            return true;
        }
        drop(state);
        let join = || -> io::Result<()> {
            let server = TcpStream::connect(server)?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let pairs = [
                (client.try_clone()?, server.try_clone()?, Direction::Request),
                (server.try_clone()?, client.try_clone()?, Direction::Answer),
            ];
            match &mut self.lock().open {
                Some(open) => open.extend([client, server]),
                None => return Ok(()),
            }
            for (from, to, direction) in pairs {
                let shared = self.clone();
                thread::spawn(move || shared.carry(from, to, direction));
            }
            Ok(())
        };
        // A server that refuses: the client's connection is dropped, which is what it would see.
        let _ = join();
        true
    }

    fn stands(&self) -> bool {
        self.lock().open.is_some()
    }

    /// Two threads, so that what is late does not delay what comes after it any more.
    fn carry(&self, mut from: TcpStream, to: TcpStream, direction: Direction) {
        let (later, due) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                self.deliver(due, &to, direction);
                // Gone already is as good.
                let _ = to.shutdown(Shutdown::Both);
            });
            let mut chunk = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                let read = (Instant::now(), chunk[..length].to_vec());
                if later.send(read).is_err() {
                    break;
                }
            }
            drop(later);
        });
        let _ = from.shutdown(Shutdown::Both);
    }

    fn deliver(
        &self,
        due: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: &TcpStream,
        direction: Direction,
    ) {
        for (read, chunk) in due {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let Some(octets) = self.wait(direction, read) else {
                    return;
                };
                let (now, later) = rest.split_at(octets.min(rest.len()));
                if to.write_all(now).is_err() {
                    return;
                }
                rest = later;
            }
        }
    }

    /// Waits for what the weather demands of a chunk that was read at a time; how many of its octets may pass then, at least one.
    fn wait(&self, direction: Direction, read: Instant) -> Option<usize> {
        let mut state = self.lock();
        loop {
            match state.weather {
                _ if state.open.is_none() => return None,
                Weather::Cut => return None,
                Weather::Fair => return Some(usize::MAX),
                Weather::AnswersHeld if direction == Direction::Request => return Some(usize::MAX),
                Weather::Slow(late) => {
                    let left = (read + late).saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Some(usize::MAX);
                    }
                    state = self.changes(state, left);
                }
                Weather::Trickle(..) if direction == Direction::Request => {
                    return Some(usize::MAX);
                }
                Weather::Trickle(octets, pause) => {
                    let until = Instant::now() + pause;
                    let before = state.weather;
                    loop {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() || state.weather != before {
                            break;
                        }
                        state = self.changes(state, left);
                    }
                    if state.weather == before && state.open.is_some() {
                        return Some(octets.max(1));
                    }
                }
                Weather::AnswersHeld | Weather::Silent => {
                    let waited = self.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits for other weather, at most so long.
    fn changes<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each octet with the next one.
    fn successor() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut octet = [0];
                    while (&client).read_exact(&mut octet).is_ok() {
                        if (&client).write_all(&[octet[0] + 1]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, octet: u8) -> io::Result<u8> {
        stream.write_all(&[octet])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    #[test]
    fn the_weather_holds_answers_back_and_cuts_connections() {
        let proxy = Proxy::start(successor()).expect("can listen");
        let mut stream = TcpStream::connect(proxy.socket_address()).expect("it listens");
        assert_eq!(ask(&mut stream, 1).expect("fair"), 2);
        proxy.set(Weather::Slow(Duration::from_millis(1)));
        assert_eq!(ask(&mut stream, 2).expect("slow"), 3);
        proxy.set(Weather::Trickle(1, Duration::from_millis(1)));
        assert_eq!(ask(&mut stream, 2).expect("a trickle"), 3);
        proxy.set(Weather::AnswersHeld);
        stream.write_all(&[3]).expect("passes");
        let patience = Some(Duration::from_millis(50));
        stream.set_read_timeout(patience).expect("not zero");
        let mut answer = [0];
        assert!(stream.read_exact(&mut answer).is_err(), "held back");
        proxy.set(Weather::Fair);
        stream.set_read_timeout(None).expect("none");
        stream.read_exact(&mut answer).expect("comes late");
        assert_eq!(answer, [4]);
        proxy.set(Weather::Cut);
        assert!(ask(&mut stream, 4).is_err(), "closed");
        let mut stream = TcpStream::connect(proxy.socket_address()).expect("it listens");
        assert!(ask(&mut stream, 5).is_err(), "closed at once");
        proxy.set(Weather::Fair);
        let mut stream = TcpStream::connect(proxy.socket_address()).expect("it listens");
        assert_eq!(ask(&mut stream, 6).expect("fair again"), 7);
        assert_eq!(proxy.connections(), 3);
    }
}
