//! `ringback health`: whether the daemon serves, for liveness probes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    Context,
    client::channel_to,
    exit::{CliError, Exit},
    output,
};
use crate::config::Config;

/// Longer than this nobody who restarts what does not answer should wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(3);

/// Ask the daemon whether it serves: exit code 0 if so, 5 if nobody answers in time, 9 if it says
/// that it does not.
#[derive(Args)]
pub(crate) struct Health {
    /// Ask on the socket that this configuration names, instead of --socket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How long to wait for the answer: at most 3s.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = timeout)]
    timeout: Duration,
}

impl Health {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let socket = match &self.config {
            Some(file) => {
                let config = Config::load(file);
                &config
                    .map_err(|error| CliError::failed(error.to_string()))?
                    .socket_name
            }
            None => &context.socket,
        };
        let asked = tokio::time::timeout(self.timeout, ask(socket));
        let status = asked
            .await
            .unwrap_or_else(|_| Err(no_answer(socket, self.timeout)))?;
        if status != ServingStatus::Serving {
            let message = format!(
                "the daemon at {} answers that it is {}",
                socket.display(),
                status.as_str_name()
            );
            return Err(CliError::new(Exit::NotServing, message));
        }
        if context.json {
            output::line(&json!({ "status": status.as_str_name() }).to_string());
        } else if !context.quiet {
            output::line(&format!("the daemon at {} serves", socket.display()));
        }
        Ok(())
    }
}

async fn ask(socket: &Path) -> Result<ServingStatus, CliError> {
    let mut client = HealthClient::new(channel_to(socket).await?);
    // The empty name asks for the server as a whole.
    let request = HealthCheckRequest::default();
    match client.check(request).await {
        Ok(response) => Ok(response.into_inner().status()),
        Err(status) if status.code() == Code::Unimplemented => {
            let message = format!(
                "what answers at {} knows no grpc.health.v1; it is no ringback",
                socket.display()
            );
            Err(CliError::new(Exit::NotServing, message))
        }
        Err(status) => Err(CliError::new(
            Exit::Unreachable,
            format!(
                "the daemon at {} did not say how it is: {}",
                socket.display(),
                status.message()
            ),
        )),
    }
}

fn no_answer(socket: &Path, patience: Duration) -> CliError {
    let message = format!(
        "no daemon answers at {} within {} ms",
        socket.display(),
        patience.as_millis()
    );
    CliError::new(Exit::Unreachable, message)
}

/// `500ms`, `2s`, `2`.
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time up to 3s; write it as 500ms or 3s");
    let (number, unit_ms) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = Duration::from_millis(number.checked_mul(unit_ms).ok_or_else(wrong)?);
    if time.is_zero() || time > TIMEOUT_MAX {
        return Err(wrong());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_above_zero_and_at_most_three_seconds() {
        for (text, ms) in [("3s", 3000), ("500ms", 500), ("1", 1000), ("3000ms", 3000)] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "0",
            "4s",
            "3001ms",
            "-1s",
            "s",
            "",
            "1m",
            "18446744073709551615s",
        ] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}
