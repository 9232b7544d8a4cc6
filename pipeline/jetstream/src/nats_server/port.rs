//! Ports of the loopback interface for servers that are started for a while.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use super::server::ServerError;

/// Below the range from which systems choose ports for outgoing connections, so that nobody takes the port by chance between a kill and a
/// restart.
pub(super) const PORT_FIRST: u16 = 14_000;
const PORT_COUNT: u16 = 16_000;
/// How many ports are tried.
const PORT_TRIES: u16 = 200;
/// How many ports a process keeps to itself. The oldest are let go: their servers listen by then, or have ended. A process may have 256
/// files open on some systems.
const KEPT_COUNT: usize = 96;

/// Ports that this process has given, each held by a socket of UDP. What is started on them speaks TCP, which the socket does not hinder.
static KEPT: Mutex<VecDeque<UdpSocket>> = Mutex::new(VecDeque::new());

/// A free port of the loopback interface, a different one each time. No other process gets it from this function until this one has ended or
/// has asked for many more. A process that does not ask here may still take it before it is used, so start the server at once and ask for
/// another port if it fails.
///
/// # Errors
/// [`ServerError::NoPort`].
pub fn free_port() -> Result<u16, ServerError> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own_start = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(PORT_COUNT)).unwrap_or(0);
    for _ in 0..PORT_TRIES {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + own_start.wrapping_add(step) % PORT_COUNT;
        if keep_port(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(ServerError::NoPort)
}

/// Keeps a port that was chosen in another way from being given by [`free_port`], here and in other processes. Returns false if somebody
/// keeps it already.
pub fn keep_port(port: u16) -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push_back(socket);
    if kept.len() > KEPT_COUNT {
        kept.pop_front();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_keeps_is_not_given() {
        let first = free_port().unwrap();
        assert!(!keep_port(first), "{first} is kept by nobody after it was given");

        let others: Vec<UdpSocket> = (first + 1..first + 40)
            .filter_map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .collect();
        let held: Vec<u16> = others.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        let given: Vec<u16> = (0..20).map(|_| free_port().unwrap()).collect();
        assert!(!held.is_empty());
        assert!(
            given.iter().all(|port| !held.contains(port)),
            "of {held:?}, which others keep, some are given: {given:?}"
        );
    }
}
