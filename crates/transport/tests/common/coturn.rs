//! A coturn of our own on loopback, over UDP, TCP and TLS.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use remotemedia_transport::{RelayProtocol, TurnServer};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Coturn {
    child: Child,
    ip: IpAddr,
    pub port: u16,
    tls_port: u16,
    directory: PathBuf,
    args: Vec<String>,
    /// The certificate authority that vouches for it, PEM.
    pub ca: String,
}

impl Coturn {
    /// `None`, loudly, where there is no `turnserver` to start, or no such address.
    pub fn start(ip: &str, extra: &[&str]) -> Option<Coturn> {
        let ip: IpAddr = ip.parse().unwrap();
        if Command::new("turnserver").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("\nSKIPPED: there is no turnserver (apt-get install coturn)\n");
            return None;
        }
        let (Ok(one), Ok(two)) = (TcpListener::bind((ip, 0)), TcpListener::bind((ip, 0))) else {
            eprintln!("\nSKIPPED: there is no {ip} here\n");
            return None;
        };
        let (port, tls_port) = (one.local_addr().unwrap().port(), two.local_addr().unwrap().port());
        drop((one, two));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("rm-relay-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let ca = certificates(&directory, ip);
        let file = |name: &str| directory.join(name).display().to_string();
        let mut args: Vec<String> = [
            "-n --no-cli --no-dtls --no-rfc5780 --allow-loopback-peers --simple-log --realm relay.test",
            &format!(
                "--listening-ip {ip} --relay-ip {ip} --listening-port {port} --tls-listening-port {tls_port}"
            ),
        ]
        .iter()
        .flat_map(|line| line.split(' ').map(str::to_owned))
        .collect();
        for (flag, name) in
            [("userdb", "db"), ("pidfile", "pid"), ("log-file", "log"), ("cert", "cert"), ("pkey", "key")]
        {
            args.extend([format!("--{flag}"), file(name)]);
        }
        args.extend(extra.iter().map(|a| (*a).to_owned()));
        let child = spawn(&directory, &args);
        let coturn = Coturn { child, ip, port, tls_port, directory, args, ca };
        coturn.wait();
        Some(coturn)
    }

    /// With the user `alice` and the password `secret`.
    pub fn with_user(ip: &str) -> Option<Coturn> {
        Coturn::start(ip, &["--lt-cred-mech", "--user", "alice:secret"])
    }

    pub fn server(&self, protocol: RelayProtocol) -> TurnServer {
        let port = if protocol == RelayProtocol::Tls { self.tls_port } else { self.port };
        let (username, credential) = ("alice".into(), "secret".into());
        TurnServer { host: self.ip.to_string(), port, protocol, username, credential }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// At the same ports.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.directory, &self.args);
        self.wait();
    }

    fn wait(&self) {
        let limit = Instant::now() + Duration::from_secs(20);
        for port in [self.port, self.tls_port] {
            while TcpStream::connect(SocketAddr::new(self.ip, port)).is_err() {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                assert!(Instant::now() < limit, "coturn doesn't listen on {port}:\n{log}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn spawn(directory: &std::path::Path, args: &[String]) -> Child {
    Command::new("turnserver")
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Writes a certificate for this address and its key; returns the authority's.
fn certificates(directory: &std::path::Path, ip: IpAddr) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![ip.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("cert"), certificate.pem()).unwrap();
    std::fs::write(directory.join("key"), key.serialize_pem()).unwrap();
    authority.pem()
}
