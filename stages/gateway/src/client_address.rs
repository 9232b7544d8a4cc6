//! The address from which a request comes: that of the connection or, behind trusted proxies, the address that the nearest of them reports.
//!
//! Each proxy appends the address that it has seen to the header. What precedes the part that trusted proxies have written may be the client's
//! own invention. So the header is read from its end, up to the first address that is not a trusted proxy.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which proxies write the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 192.0.2.7, 10.0.0.1`.
    XForwardedFor,
    /// `Forwarded: for=192.0.2.7, for=10.0.0.1` (RFC 7239).
    Forwarded,
}

/// Proxies whose headers are trusted.
#[derive(Debug, Clone)]
pub struct TrustedProxies {
    pub(crate) networks: Vec<IpNet>,
    pub(crate) header: ForwardedHeader,
}

impl TrustedProxies {
    /// The address of the client of a connection from `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in self.hops(headers).into_iter().rev() {
            if !self.is_trusted(client) {
                break;
            }
            // Beyond an invalid address, nothing can be determined. The proxy that passed it on then stands for all its clients.
            let Some(address) = hop else { break };
            client = address.to_canonical();
        }
        client
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The addresses in the header, the nearest last; `None` for an invalid one.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let lines = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
        let hops = lines.flat_map(|line| line.split(','));
        match self.header {
            ForwardedHeader::XForwardedFor => hops.map(|hop| address(hop.trim())).collect(),
            ForwardedHeader::Forwarded => hops.map(forwarded_for).collect(),
        }
    }
}

/// The address in `for=192.0.2.7;proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (_, value) = values.next()?;
    let value = value.trim();
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return is_port(port).then(|| address.parse().ok()).flatten();
    }
    let (address, port) = text.split_at(text.find(':')?);
    is_port(port).then(|| address.parse().ok()).flatten()
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&'static str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        let mut headers = HeaderMap::new();
        for line in lines {
            for name in [X_FORWARDED_FOR, header::FORWARDED] {
                headers.append(name, HeaderValue::from_static(line));
            }
        }
        TrustedProxies { networks, header }.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_address_is_what_the_nearest_trusted_proxy_has_seen() {
        for (peer, lines, expected) in [
            ("192.0.2.1", &["1.1.1.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("::ffff:10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1", "192.0.2.7, 10.2.0.1"], "192.0.2.7"),
            ("10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["192.0.2.7:x"], "10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::7"], "10.0.0.1"),
        ] {
            assert_eq!(client(ForwardedHeader::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
        }
        for (lines, expected) in [
            (&["for=192.0.2.7"][..], "192.0.2.7"),
            (&["For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.1"], "2001:db8::7"),
            (&["for=1.1.1.1, proto=https; for=\"192.0.2.7:4711\""], "192.0.2.7"),
            (&["for=1.1.1.1", "for=_hidden"], "10.0.0.1"),
            (&["for=1.1.1.1, proto=https"], "10.0.0.1"),
        ] {
            assert_eq!(client(ForwardedHeader::Forwarded, "10.0.0.1", lines), expected, "{lines:?}");
        }
    }
}
