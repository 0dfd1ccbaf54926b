//! The environment variables that count here.

use std::collections::BTreeMap;

/// Variables of vLLM that this program follows.
const FOLLOWED: [&str; 17] = [
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "VLLM_API_KEY",
    "VLLM_CPU_ISA",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH",
    "VLLM_LOGGING_COLOR",
    "VLLM_LOGGING_LEVEL",
    "VLLM_LOGGING_PREFIX",
    "VLLM_LOGGING_STREAM",
    "VLLM_LOG_STATS_INTERVAL",
    "VLLM_MAX_COMPLETION_PROMPTS",
    "VLLM_MAX_N_SEQUENCES",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_SKIP_MODEL_NAME_VALIDATION",
    "VLLM_USE_MODELSCOPE",
];

/// Variables of vLLM that have nothing to act on here and change no answer.
const WITHOUT_EFFECT: [&str; 19] = [
    "VLLM_CACHE_ROOT",
    // The work of a template is bounded instead, to about a second.
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT",
    "VLLM_CONFIGURE_LOGGING",
    "VLLM_CONFIG_ROOT",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
    "VLLM_DISABLE_LOG_LOGO",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION",
    "VLLM_DO_NOT_TRACK",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_ENGINE_READY_TIMEOUT_S",
    "VLLM_HOST_IP",
    "VLLM_LOGGING_CONFIG_PATH",
    "VLLM_NO_USAGE_STATS",
    "VLLM_PLUGINS",
    "VLLM_PORT",
    "VLLM_RUST_FRONTEND_PATH",
    "VLLM_USE_RUST_BENCH",
    "VLLM_USE_RUST_FRONTEND",
    "VLLM_WORKER_MULTIPROC_METHOD",
];

/// A copy of the variables of one process.
#[derive(Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(crate) fn of_process() -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(readable).collect())
    }

    /// The value of a variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Whether a switch is on: `1` or `true`.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }

    /// A number, such as seconds.
    ///
    /// # Errors
    /// A value that is no number, with the variable's name.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, String> {
        self.get(name)
            .map(|value| {
                value
                    .parse()
                    .ok()
                    .filter(|number: &f64| number.is_finite() && *number >= 0.0)
                    .ok_or_else(|| format!("{name}={value} is no number of seconds"))
            })
            .transpose()
    }

    /// Checks limits that the crates read themselves.
    ///
    /// # Errors
    /// A value that is no positive whole number, with the variable's name.
    pub(crate) fn check_limits(&self) -> Result<(), String> {
        for name in ["VLLM_MAX_COMPLETION_PROMPTS", "VLLM_MAX_N_SEQUENCES"] {
            if let Some(value) = self.get(name)
                && !value.trim().parse().is_ok_and(|limit: u32| limit > 0)
            {
                return Err(format!("{name}={value} is no number of at least 1"));
            }
        }
        Ok(())
    }

    /// What to tell about variables that nobody reads.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let unknown = |name: &&String| {
            name.starts_with("VLLM_")
                && !FOLLOWED.contains(&name.as_str())
                && !WITHOUT_EFFECT.contains(&name.as_str())
        };
        self.0
            .keys()
            .filter(unknown)
            .map(|name| format!("Unknown vLLM environment variable detected: {name}"))
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(variables.iter().map(owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_variables_are_told() {
        let environment = Environment::with(&[
            ("VLLM_API_KEY", "k"),
            ("VLLM_FROBNICATE", "1"),
            ("HOME", "/"),
        ]);
        assert_eq!(
            environment.warnings(),
            ["Unknown vLLM environment variable detected: VLLM_FROBNICATE"]
        );
    }

    #[test]
    fn values_are_read_by_kind() {
        let environment = Environment::with(&[("A", "1"), ("B", "0"), ("C", ""), ("D", "x")]);
        assert!(environment.is_on("A") && !environment.is_on("B") && !environment.is_on("C"));
        assert_eq!(environment.number("A"), Ok(Some(1.0)));
        assert_eq!(environment.number("C"), Ok(None));
        assert!(environment.number("D").unwrap_err().contains("D=x"));
        assert_eq!(environment.check_limits(), Ok(()));
        for value in ["0", "-1", "many"] {
            let environment = Environment::with(&[("VLLM_MAX_N_SEQUENCES", value)]);
            let message = environment.check_limits().unwrap_err();
            assert!(message.contains(value), "{message}");
        }
    }
}
