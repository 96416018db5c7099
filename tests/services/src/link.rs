//! A link to a server that can be cut.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// A port of 127.0.0.1 behind which there is another one, as long as the link stands.
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: String,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    way: Way,
    /// Both ends of every connection.
    open: Vec<TcpStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Stands,
    /// Nothing comes through, and nobody is told.
    Silent,
    /// Every connection breaks.
    Broken,
    Ended,
}

impl Link {
    /// A link to `target`, `host:port`.
    pub fn to(target: &str) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::new(State { way: Way::Stands, open: Vec::new() });
        let shared = Arc::new(Shared { target: target.to_owned(), state, changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&accepting);
                match shared.wait_while_silent() {
                    Way::Ended => return,
                    Way::Stands => {
                        thread::spawn(move || shared.join(stream.ok()?));
                    }
                    Way::Broken | Way::Silent => {}
                }
            }
        });
        Link { port, shared }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Nothing comes through any more, and nobody is told: as when a cable is pulled. What is sent arrives when it is
    /// [`restored`](Link::restore).
    pub fn silence(&self) {
        self.shared.set(Way::Silent);
    }

    /// Every connection breaks, now and from now on.
    pub fn cut(&self) {
        self.shared.set(Way::Broken);
    }

    /// It stands again.
    pub fn restore(&self) {
        self.shared.set(Way::Stands);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.set(Way::Ended);
        // The thread that accepts looks up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, way: Way) {
        let mut state = self.state();
        state.way = way;
        if matches!(way, Way::Broken | Way::Ended) {
            state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
        self.changed.notify_all();
    }

    fn wait_while_silent(&self) -> Way {
        let state = self.changed.wait_while(self.state(), |state| state.way == Way::Silent);
        state.unwrap_or_else(PoisonError::into_inner).way
    }

    /// Joins a connection with one to the target.
    fn join(self: &Arc<Self>, here: TcpStream) -> Option<()> {
        let there = TcpStream::connect(&self.target).ok()?;
        for stream in [&here, &there] {
            stream.set_nodelay(true).ok()?;
        }
        {
            let mut state = self.state();
            if matches!(state.way, Way::Broken | Way::Ended) {
                return None;
            }
            state.open.extend([here.try_clone().ok()?, there.try_clone().ok()?]);
        }
        let (shared, back) = (Arc::clone(self), (there.try_clone().ok()?, here.try_clone().ok()?));
        thread::spawn(move || shared.copy(back.0, back.1));
        self.copy(here, there);
        Some(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if self.wait_while_silent() != Way::Stands || to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        // The other side has gone as well, or hears that this one has.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
