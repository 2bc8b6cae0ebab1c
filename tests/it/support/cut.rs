//! A way to a server that a test can cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// A listener that passes everything on, until it is cut.
pub struct Cut {
    pub address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cut {
    /// A way to this server.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cut = Self {
            address: listener.local_addr().unwrap(),
            is_cut: Arc::default(),
            open: Arc::default(),
        };
        let (is_cut, open) = (cut.is_cut.clone(), cut.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let halves = [(&client, &server), (&server, &client)];
                for (from, to) in halves {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut bytes = [0; 16 * 1024];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
                open.lock().push(client);
            }
        });
        cut
    }

    /// Ends all connections and lets none in.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.open.lock().drain(..).for_each(|stream| {
            let _ = stream.shutdown(Shutdown::Both);
        });
    }

    /// Lets connections in again.
    pub fn heal(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}
