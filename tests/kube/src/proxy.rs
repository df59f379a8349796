//! The way to a server, with weather: what passes may be late, be held back, or be cut off.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to octets on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// They pass.
    Fair,
    /// They pass, each chunk so much later, in both directions.
    Slow(Duration),
    /// Requests pass and answers are held back: what was asked is done, and nobody hears of it.
    AnswersHeld,
    /// Nothing passes, nothing is closed: as behind a firewall that forgot the connection.
    Silent,
    /// Open connections are closed, and new ones at once.
    Cut,
}

/// A TCP proxy on loopback in front of a server. It ends with the last connection after it was dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
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
    /// Listens in the calling thread's network namespace, and connects from there.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
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
            for client in listener.incoming() {
                // A client that is gone already is no client.
                let Ok(client) = client else { continue };
                if !given.take(client, server) {
                    return;
                }
            }
        });
        Ok(Self { address, shared })
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
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
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

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            if !self.wait(direction) || to.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        // Gone already is as good.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// Waits for what the weather demands of a chunk; whether it may pass then.
    fn wait(&self, direction: Direction) -> bool {
        let mut state = self.lock();
        loop {
            match state.weather {
                _ if state.open.is_none() => return false,
                Weather::Cut => return false,
                Weather::Fair => return true,
                Weather::AnswersHeld if direction == Direction::Request => return true,
                Weather::Slow(late) => {
                    drop(state);
                    thread::sleep(late);
                    return true;
                }
                Weather::AnswersHeld | Weather::Silent => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
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
