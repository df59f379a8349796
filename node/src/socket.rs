//! Unix sockets that the process listens on.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

/// How often it is looked whether the file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How soon it is tried again to accept a connection.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A listening socket and its file, which only root may use.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`, in place of a socket that a former process left behind. There is no other living one: see
    /// [`HostLock`](crate::instance::HostLock).
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: file(path),
        })
    }

    /// The next connection. A socket whose file is gone is made anew meanwhile. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What the system answers: the next call may succeed.
    pub async fn next(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                () = self.lost() => {}
            }
            self.renew();
        }
    }

    /// Waits until somebody has removed or replaced the file: nobody finds the listener any more.
    async fn lost(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if file(&self.path) != self.file {
                return;
            }
        }
    }

    fn renew(&mut self) {
        let path = self.path.display();
        match Self::bind(&self.path) {
            Ok(fresh) => {
                warn!(%path, "somebody removed the socket: it is there again");
                *self = fresh;
            }
            Err(error) => warn!(%path, %error, "somebody removed the socket; trying again"),
        }
    }
}

/// So that axum serves it.
impl Listener for Socket {
    type Io = UnixStream;
    type Addr = PathBuf;

    async fn accept(&mut self) -> (UnixStream, PathBuf) {
        loop {
            match self.next().await {
                Ok(stream) => return (stream, self.path.clone()),
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "accepting a connection failed");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<PathBuf> {
        Ok(self.path.clone())
    }
}

/// Device and inode; `None` when there is no file.
fn file(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_whose_file_is_removed_or_replaced_is_found_again() {
        let name = format!("tortie-socket-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("cni.sock");
        let mut socket = Socket::bind(&path).unwrap();
        let look = tokio::time::timeout(LOOK_EVERY * 3, socket.lost()).await;
        assert!(look.is_err(), "nobody touched it");
        for replace in [false, true] {
            std::fs::remove_file(&path).unwrap();
            if replace {
                std::fs::write(&path, "").unwrap();
            }
            let client = async {
                // Virtual time: as soon as nothing else can happen.
                tokio::time::sleep(LOOK_EVERY * 2).await;
                UnixStream::connect(&path).await
            };
            let (client, accepted) = tokio::join!(client, socket.next());
            client.unwrap();
            accepted.unwrap();
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
