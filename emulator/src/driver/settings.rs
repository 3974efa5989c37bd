//! What the emulator was told: by environment variables when it starts, by its control functions later.

use super::api::Failure;
use crate::check::Checks;
use crate::profile::{PROFILES, Profile};
use std::path::PathBuf;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The devices there are, in order (`PTX_EMULATOR_DEVICES`, fixed once the driver is initialised).
    pub(crate) devices: Vec<&'static Profile>,
    /// Checks in force (`PTX_EMULATOR_CHECKS`).
    pub(crate) checks: Checks,
    /// Seed of every order that is not laid down (`PTX_EMULATOR_SEED`).
    pub(crate) seed: Option<u64>,
    /// Most warp instructions of a launch (`PTX_EMULATOR_BUDGET`).
    pub(crate) budget: Option<u64>,
    /// Host threads that blocks run on, 0 for all cores (`PTX_EMULATOR_THREADS`).
    pub(crate) threads: usize,
    /// Whether counters of launches are kept for the control function that takes them.
    pub(crate) keep_counters: bool,
    /// File that receives one JSON object a launch (`PTX_EMULATOR_COUNTERS`).
    pub(crate) counters_file: Option<PathBuf>,
    /// File that receives one JSON object a report (`PTX_EMULATOR_REPORTS`).
    pub(crate) reports_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            devices: vec![Profile::by_key("h100").unwrap_or(&PROFILES[0])],
            checks: Checks::ALL,
            seed: None,
            budget: None,
            threads: 0,
            keep_counters: false,
            counters_file: None,
            reports_file: None,
        }
    }
}

impl Settings {
    /// Reads the settings and the failures to inject through `get`, which answers as `std::env::var_os` does.
    pub(crate) fn read(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<(Settings, Vec<Failure>), String> {
        let mut settings = Settings::default();
        let number = |name: &str| -> Result<Option<u64>, String> {
            match get(name) {
                None => Ok(None),
                Some(text) if text.is_empty() => Ok(None),
                Some(text) => text
                    .parse()
                    .map(Some)
                    .map_err(|_| format!("{name}: `{text}` is not a number")),
            }
        };
        if let Some(text) = get("PTX_EMULATOR_DEVICES") {
            settings.devices = parse_devices(&text)?;
        }
        if let Some(text) = get("PTX_EMULATOR_CHECKS") {
            settings.checks = Checks::parse(&text)
                .map_err(|name| format!("PTX_EMULATOR_CHECKS: no check `{name}`"))?;
        }
        settings.seed = number("PTX_EMULATOR_SEED")?;
        settings.budget = number("PTX_EMULATOR_BUDGET")?;
        if let Some(threads) = number("PTX_EMULATOR_THREADS")? {
            settings.threads = threads as usize;
        }
        let file = |name: &str| get(name).filter(|p| !p.is_empty()).map(PathBuf::from);
        settings.counters_file = file("PTX_EMULATOR_COUNTERS");
        settings.reports_file = file("PTX_EMULATOR_REPORTS");
        let failures = match get("PTX_EMULATOR_FAIL") {
            Some(text) => {
                Failure::parse_list(&text).map_err(|e| format!("PTX_EMULATOR_FAIL: {e}"))?
            }
            None => Vec::new(),
        };
        Ok((settings, failures))
    }
}

/// Profiles by key, comma-separated, at least one.
fn parse_devices(text: &str) -> Result<Vec<&'static Profile>, String> {
    let known = || {
        PROFILES
            .iter()
            .map(|p| p.key)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let devices = text
        .split(',')
        .map(str::trim)
        .filter(|k| !k.is_empty())
        .map(|key| {
            Profile::by_key(key).ok_or_else(|| {
                format!(
                    "PTX_EMULATOR_DEVICES: no profile `{key}` (there are {})",
                    known()
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        return Err(format!(
            "PTX_EMULATOR_DEVICES is empty (there are {})",
            known()
        ));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_string()))
            .map(|s| s.0)
    }

    #[test]
    fn the_environment_is_read() {
        let settings = read(&[
            ("PTX_EMULATOR_DEVICES", "h100, a100"),
            ("PTX_EMULATOR_CHECKS", "bounds"),
            ("PTX_EMULATOR_SEED", "7"),
            ("PTX_EMULATOR_THREADS", "1"),
        ])
        .unwrap();
        assert_eq!(
            settings.devices.iter().map(|p| p.key).collect::<Vec<_>>(),
            ["h100", "a100"]
        );
        assert!(settings.checks.has(Check::Bounds) && !settings.checks.has(Check::Leak));
        assert_eq!(
            (settings.seed, settings.threads, settings.budget),
            (Some(7), 1, None)
        );
    }

    #[test]
    fn every_mistake_is_named() {
        assert!(
            read(&[("PTX_EMULATOR_DEVICES", "k80")])
                .unwrap_err()
                .contains("`k80`")
        );
        assert!(
            read(&[("PTX_EMULATOR_DEVICES", "")])
                .unwrap_err()
                .contains("empty")
        );
        assert!(
            read(&[("PTX_EMULATOR_CHECKS", "bound")])
                .unwrap_err()
                .contains("`bound`")
        );
        assert!(
            read(&[("PTX_EMULATOR_SEED", "x")])
                .unwrap_err()
                .contains("PTX_EMULATOR_SEED")
        );
        assert!(
            read(&[("PTX_EMULATOR_FAIL", "cuInit")])
                .unwrap_err()
                .contains("PTX_EMULATOR_FAIL")
        );
    }
}
