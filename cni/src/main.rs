//! The CNI plugin: one request to the node's agent, one result.
//!
//! Installed as `calico` and, for configurations that look for it, as `calico-ipam`; it installs itself when called as
//! `install`, or with the words `install` or `component cni install`.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use cni::{install, plugin, upgrade};

const USAGE: &str = "usage: tortie-cni install|uninstall [--root DIRECTORY]
Puts the plugin and its network configuration on the host, or takes them away. The host's directories are
DIRECTORY/host/opt/cni/bin and DIRECTORY/host/etc/cni/net.d; settings are environment variables
(CNI_NETWORK_CONFIG, CNI_CONF_NAME, CNI_NET_DIR, SLEEP, UPDATE_CNI_BINARIES, SKIP_CNI_BINARIES, CNI_MTU, ...).";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let started_as = arguments.next().unwrap_or_default();
    let program = Path::new(&started_as)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let variable =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.collect();
    if let Some((chore, options)) = Chore::of(&program, &arguments) {
        return match chore.run(options, &variable) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tortie-cni: {error}");
                ExitCode::FAILURE
            }
        };
    }
    // A person who tries the plugin out types no configuration.
    let mut stdin: Box<dyn Read> = if io::stdin().is_terminal() {
        Box::new(io::empty())
    } else {
        Box::new(io::stdin().lock())
    };
    let output = plugin::run(&program, &arguments, &variable, &mut stdin);
    let said = io::stderr()
        .write_all(output.stderr.as_bytes())
        .and_then(|()| io::stdout().write_all(output.stdout.as_bytes()))
        .and_then(|()| io::stdout().flush());
    match said {
        Ok(()) => ExitCode::from(output.exit_code),
        // The runtime did not get the result: it must not take the call for done.
        Err(_) => ExitCode::FAILURE,
    }
}

/// What it does other than a runtime's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chore {
    Install,
    Uninstall,
    UpgradeIpam,
}

impl Chore {
    /// By the program's name and its arguments; with what follows the words that named it.
    fn of<'a>(program: &str, arguments: &'a [String]) -> Option<(Self, &'a [String])> {
        let mut words = arguments;
        if let [component, cni, rest @ ..] = words
            && component == "component"
            && cni == "cni"
        {
            words = rest;
        }
        match words.split_first() {
            Some((word, options)) if word == "install" => Some((Self::Install, options)),
            Some((word, options)) if word == "uninstall" => Some((Self::Uninstall, options)),
            Some((word, options))
                if program == "calico-ipam"
                    && matches!(word.as_str(), "-upgrade" | "--upgrade") =>
            {
                Some((Self::UpgradeIpam, options))
            }
            _ if program == "install" => Some((Self::Install, words)),
            _ => None,
        }
    }

    fn run(
        self,
        options: &[String],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        let root = match options {
            [] => Path::new("/"),
            [option, directory] if option == "--root" => Path::new(directory),
            [option] if option == "--help" || option == "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => return Err(format!("{}: unknown\n{USAGE}", options.join(" "))),
        };
        if self == Self::UpgradeIpam {
            let done = upgrade::upgrade(root)?;
            eprintln!("tortie-cni: {done}");
            return Ok(());
        }
        let program = std::env::current_exe()
            .map_err(|error| format!("where this program is cannot be found out: {error}"))?;
        let places = install::Places::below(root, program);
        let host_name = rustix::system::uname();
        let host_name = host_name.nodename().to_string_lossy();
        let settings = install::Settings::read(variable, &host_name)
            .map_err(|errors| plugin::chain(&install::InstallError::Settings(errors)))?;
        let mut say = |line: &str| eprintln!("tortie-cni: {line}");
        let stays = matches!(self, Self::Install) && settings.sleep;
        // A container's first process is ended by no signal that it does not ask for; one that comes early is not lost.
        let stay = stays
            .then(|| install::Stay::begin(&places, &settings))
            .transpose()
            .map_err(|error| format!("catching signals: {error}"))?;
        match self {
            Self::Install => install::install(&places, &settings, &mut say)
                .map_err(|error| plugin::chain(&error))?,
            Self::Uninstall => install::uninstall(&places, &settings, &mut say)
                .map_err(|error| plugin::chain(&error))?,
            Self::UpgradeIpam => {}
        }
        if let Some(stay) = stay {
            say(
                "SLEEP is true: staying until SIGTERM or SIGINT, and following the service account and the TLS assets",
            );
            stay.until_signal(&places, &settings, &mut say)
                .map_err(|error| format!("waiting for signals: {error}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_name_the_installer_is_understood_and_a_runtimes_call_is_none() {
        let chore = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let program = words.next().unwrap_or_default();
            let arguments: Vec<String> = words.collect();
            Chore::of(&program, &arguments).map(|(chore, options)| (chore, options.join(" ")))
        };
        let install = |options: &str| Some((Chore::Install, options.to_owned()));
        assert_eq!(chore("install"), install(""));
        assert_eq!(chore("install --root /x"), install("--root /x"));
        assert_eq!(chore("tortie-cni install"), install(""));
        assert_eq!(chore("calico component cni install"), install(""));
        assert_eq!(
            chore("calico uninstall --root /x"),
            Some((Chore::Uninstall, "--root /x".to_owned()))
        );
        let upgrade = Some((Chore::UpgradeIpam, String::new()));
        assert_eq!(chore("calico-ipam -upgrade"), upgrade);
        for call in [
            "calico",
            "calico -upgrade",
            "calico-ipam",
            "tortie-cni",
            "calico -v",
            "calico component node run",
        ] {
            assert_eq!(chore(call), None, "{call}");
        }
    }
}
