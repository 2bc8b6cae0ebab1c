//! Servers in containers of a Docker Engine, found by their labels. They are replaced as operators do it: a new one is
//! started, and then an old one is stopped.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::clients::CONTAINER_HOST;
use super::connect::Failure;

const CONTAINERS: usize = 3;
/// The pause between two replacements.
const INTERVAL: Duration = Duration::from_secs(5);
/// The argument with which this program is such a server.
pub const SERVE: &str = "serve";
/// Where it listens.
pub const ADDRESS: &str = "0.0.0.0:80";
/// Folders with the libraries of this program.
const FOLDERS: [&str; 3] = ["/usr", "/lib", "/lib64"];

/// Running containers, in the order of their start. They are removed when dropped.
pub struct Containers {
    running: VecDeque<String>,
    image: String,
    started: usize,
    /// How many have been replaced.
    pub replaced: usize,
    /// Why replacing them has ended early.
    pub problem: Option<String>,
}

/// Runs a command of Docker's client, and returns what it prints.
async fn docker(arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("docker").args(arguments).output().await?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("docker {}: {}", arguments.join(" "), text.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns whether an engine answers.
pub async fn has_engine() -> bool {
    docker(&["version", "--format", "{{.Server.Version}}"]).await.is_ok()
}

/// Returns the gateway's flags to find them.
pub fn flags() -> Vec<String> {
    let endpoint = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    vec![
        format!("--providers.docker.endpoint={endpoint}"),
        format!("--providers.docker.constraints=Label(`soak`, `{}`)", std::process::id()),
    ]
}

impl Containers {
    /// Starts the first containers, with this program as server in an image without files.
    ///
    /// # Errors
    ///
    /// Fails if the engine refuses it.
    pub async fn start() -> Result<Self, Failure> {
        let image = format!("tidegate-soak-{}", std::process::id());
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("empty.tar");
        // An archive ends with two empty blocks.
        std::fs::write(&archive, [0; 1024])?;
        docker(&["import", &archive.display().to_string(), &image]).await?;
        let mut containers = Self { running: VecDeque::new(), image, started: 0, replaced: 0, problem: None };
        for _ in 0..CONTAINERS {
            containers.add().await?;
        }
        Ok(containers)
    }

    async fn add(&mut self) -> Result<(), Failure> {
        self.started += 1;
        let name = format!("{}-{}", self.image, self.started);
        let program = format!("{}:/{SERVE}:ro", std::env::current_exe()?.display());
        let mut arguments =
            ["run", "--detach", "--name", &name, "--volume", &program].map(str::to_owned).to_vec();
        arguments.extend(FOLDERS.iter().map(|folder| format!("--volume={folder}:{folder}:ro")));
        let labels = [
            format!("soak={}", std::process::id()),
            format!("traefik.http.routers.soak.rule=Host(`{CONTAINER_HOST}`)"),
            "traefik.http.routers.soak.entrypoints=web".to_owned(),
            "traefik.http.routers.soak.middlewares=again".to_owned(),
            format!("traefik.http.routers.soak-secure.rule=Host(`{CONTAINER_HOST}`)"),
            "traefik.http.routers.soak-secure.entrypoints=websecure".to_owned(),
            "traefik.http.routers.soak-secure.tls=true".to_owned(),
            "traefik.http.routers.soak-secure.middlewares=again".to_owned(),
            "traefik.http.middlewares.again.retry.attempts=3".to_owned(),
            "traefik.http.services.soak.loadbalancer.server.port=80".to_owned(),
            "traefik.http.services.soak.loadbalancer.hold=10s".to_owned(),
        ];
        arguments.extend(labels.map(|label| format!("--label={label}")));
        arguments.extend([format!("--entrypoint=/{SERVE}"), self.image.clone(), SERVE.to_owned()]);
        self.running.push_back(name);
        docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        Ok(())
    }

    /// Replaces one after another until the run is over, or one fails.
    pub async fn replace(mut self, mut over: oneshot::Receiver<()>) -> Self {
        while self.problem.is_none() && timeout(INTERVAL, &mut over).await.is_err() {
            self.problem = self.replace_oldest().await.err().map(|failure| failure.to_string());
        }
        self
    }

    async fn replace_oldest(&mut self) -> Result<(), Failure> {
        self.add().await?;
        let old = self.running[0].clone();
        docker(&["stop", "--time", "60", &old]).await?;
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &old]).await?;
        if code != "0" {
            return Err(format!("the server in {old} did not end its requests: exit code {code}").into());
        }
        docker(&["rm", &old]).await?;
        self.running.pop_front();
        self.replaced += 1;
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for name in &self.running {
            let _ = std::process::Command::new("docker").args(["rm", "--force", name]).output();
        }
        let _ = std::process::Command::new("docker").args(["rmi", &self.image]).output();
    }
}
