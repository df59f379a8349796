//! The embedded store as its users meet it: in process, over the relay, and as a process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/file.rs"]
mod file;
#[path = "store/process.rs"]
mod process;
#[path = "store/relay.rs"]
mod relay;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{Expect, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use futures_util::stream::BoxStream;

/// A folder of one test, removed at the end.
struct Folder {
    path: PathBuf,
    made: AtomicUsize,
}

impl Folder {
    fn new(name: &str) -> Self {
        // A socket's path must be short: 107 bytes.
        let path = std::env::temp_dir().join(format!("tortie-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self {
            path,
            made: AtomicUsize::new(0),
        }
    }

    /// A path that nothing has.
    fn next(&self, extension: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{number}.{extension}"))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).expect("the folder is ours");
    }
}

fn pool(name: &str) -> Key {
    Key::new(Kind::IPPool, name)
}

fn put(name: &str, value: &str) -> Op {
    Op::Put {
        key: pool(name),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expect: Expect::Any,
    }
}

/// Writes, and answers the cursor from which a watch sees what comes after it.
async fn wrote(store: &dyn Store, name: &str, value: &str) -> Result<Cursor, StoreError> {
    let change = store.write(put(name, value)).await?;
    let change = change.expect("a put changes something");
    Ok(Cursor::read(&change.version().to_string()))
}

/// All pools.
async fn pools(store: &dyn Store) -> Listing {
    let listing = store.list(Kind::IPPool, &Scope::All).await;
    listing.expect("it answers")
}

type Events = BoxStream<'static, Result<WatchEvent, StoreError>>;

fn events(store: &dyn Store, after: &Cursor) -> Events {
    store.watch(Kind::IPPool, Scope::All, after.clone())
}

/// The key and the cursor of an event.
fn seen(event: Option<Result<WatchEvent, StoreError>>) -> (Key, Cursor) {
    match event {
        Some(Ok(WatchEvent::Change(change, cursor))) => (change.key().clone(), cursor),
        other => panic!("a change was to come: {other:?}"),
    }
}
