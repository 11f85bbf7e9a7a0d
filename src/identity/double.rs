//! This file is a stand-in for Keycloak: the part of its REST interface that is used here, with faults on command.
//!
//! ```text
//! double          start, serve, steer                 connections   accept; close without an answer
//! ├─ routes       what is asked, and whether it may be    └─ faults  which fault strikes, and what was counted
//! │  └─ control   /double/…: faults and counters while it runs
//! └─ realm        the state: settings, clients, tokens
//!    ├─ users     accounts and their indexes            ├─ profile   which values and attributes are taken
//!    ├─ logins    tokens, sessions, passwords           └─ events    what is stored for polling
//! ```
//!
//! It keeps everything in memory and is held to the truth by the contract that the real one passes, too. It is for
//! tests, load and demonstrations: whoever reaches it may steer it, so it listens on this machine only.

mod connections;
mod control;
mod events;
mod faults;
mod logins;
mod profile;
mod realm;
mod refusal;
mod routes;
mod users;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::faults::Switchboard;
pub use self::faults::{Counters, Faults};
use self::realm::Realm;

/// What a double begins with.
#[derive(Debug, Clone)]
pub struct DoubleOptions {
    /// Where it listens; the port may be 0. Only an address of this machine.
    pub listen: SocketAddr,
    /// Its one realm, beside `master`.
    pub realm: String,
    /// The realm's clients.
    pub clients: Vec<DoubleClient>,
    /// Who may do everything, through the client `admin-cli` of the realm `master`.
    pub admin: String,
    /// The administrator's password.
    pub admin_password: String,
    /// What the ids, and which requests meet a fault, follow from.
    pub seed: u64,
    /// The faults it begins with.
    pub faults: Faults,
}

impl Default for DoubleOptions {
    /// On a free port, the realm `essaim`, no clients and no faults.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            realm: "essaim".into(),
            clients: Vec::new(),
            admin: "admin".into(),
            admin_password: "admin".into(),
            seed: 0,
            faults: Faults::default(),
        }
    }
}

impl DoubleOptions {
    /// Whether a double can begin so.
    ///
    /// # Errors
    /// A sentence that names what is out of range, or that others would reach it.
    pub fn validate(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() {
            return Err(format!(
                "{} can be reached by others, and whoever reaches the double may steer it",
                self.listen
            ));
        }
        self.faults.validate()
    }
}

/// A client of the realm.
#[derive(Clone)]
pub struct DoubleClient {
    id: String,
    secret: Option<String>,
    roles: Vec<String>,
}

impl DoubleClient {
    /// One with a secret and a service account that has these roles of `realm-management`.
    pub fn confidential(id: impl Into<String>, secret: impl Into<String>, roles: &[&str]) -> Self {
        Self {
            id: id.into(),
            secret: Some(secret.into()),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        }
    }

    /// One without a secret, at which people log in by password.
    pub fn public(id: impl Into<String>) -> Self {
        Self { id: id.into(), secret: None, roles: Vec::new() }
    }
}

impl std::fmt::Debug for DoubleClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoubleClient").field("id", &self.id).field("roles", &self.roles).finish_non_exhaustive()
    }
}

/// A double that listens; it ends when dropped.
#[derive(Debug)]
pub struct Double {
    address: SocketAddr,
    shared: Shared,
    stop: CancellationToken,
}

impl Double {
    /// Starts one in this process.
    ///
    /// # Errors
    /// When it cannot listen there, and what [`DoubleOptions::validate`] refuses.
    pub async fn start(options: DoubleOptions) -> io::Result<Self> {
        options.validate().map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Shared::new(options);
        let stop = CancellationToken::new();
        tokio::spawn(connections::accept(listener, shared.clone(), stop.clone()));
        Ok(Self { address, shared, stop })
    }

    /// Where it answers, e.g. `http://127.0.0.1:41234`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The faults in force.
    pub fn faults(&self) -> Faults {
        self.shared.switches.faults()
    }

    /// Changes the faults, for requests that begin from now on.
    ///
    /// # Errors
    /// A sentence that names the value that is out of range.
    pub fn set_faults(&self, faults: Faults) -> Result<(), String> {
        self.shared.switches.set(faults)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Does what a user does who follows the link in the message: the address of this username is verified, and an
    /// event says so. Whether there is such a user.
    pub fn verify_email(&self, username: &str) -> bool {
        self.shared.realm().verify_email(username)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What every connection works on.
#[derive(Debug, Clone)]
struct Shared {
    realm: Arc<Mutex<Realm>>,
    switches: Arc<Switchboard>,
}

impl Shared {
    fn new(options: DoubleOptions) -> Self {
        let switches = Switchboard::new(options.seed, options.faults.clone());
        Self { realm: Arc::new(Mutex::new(Realm::new(options))), switches: Arc::new(switches) }
    }

    /// The state, locked; never across an await.
    fn realm(&self) -> MutexGuard<'_, Realm> {
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> Counters {
        let users = self.realm().users.count();
        Counters { users, ..self.switches.counters() }
    }
}
