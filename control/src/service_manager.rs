//! Tells systemd how the daemon does, as sd_notify(3) does (`Type=notify`).

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Tells whoever started the daemon, where it wants to be told.
pub(crate) fn tell(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|it| !it.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(?socket, state, %error, "cannot tell the service manager");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    // A leading @ stands for the zero that an abstract address begins with.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_reach_sockets_with_a_path_and_abstract_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("binds");
        let name = format!("ringback-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let abstract_one = UnixDatagram::bind_addr(&address).expect("binds");
        for (at, socket) in [
            (path.as_os_str(), &by_path),
            (OsStr::new(&format!("@{name}")), &abstract_one),
        ] {
            send(at, "READY=1").expect("is sent");
            let mut received = [0; 16];
            let length = socket.recv(&mut received).expect("receives");
            assert_eq!(&received[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/absent/socket"), "READY=1").is_err());
    }
}
