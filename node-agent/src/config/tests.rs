//! Each layer on its own, all of them together, and every wrong input that a person may give.

use super::*;
use crate::host::hook::{HOOK_TIMEOUT_DEFAULT, Hook};
use crate::host::probe::{AfterGood, Probe};
use crate::host::watch_files::OnChange;

const PIN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const SEEDER: &str =
    "/ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

const ENOUGH: [(&str, &str); 3] =
    [("SHOAL_GOAL", "file:///goal"), ("SHOAL_SEEDERS", SEEDER), ("SHOAL_APPS__WEB__EXEC", "./run")];

/// The configuration of a file with `text`, variables, and `--set`-like flags.
fn load(
    text: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = text.map(|text| {
        let path = folder.path().join("shoal.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let inputs = Inputs {
        bootstrap: None,
        file,
        environment: variables.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
        flags: flags
            .iter()
            .map(|(key, value)| FlagSetting {
                flag: "--set".into(),
                key: (*key).into(),
                value: Some((*value).into()),
            })
            .collect(),
    };
    let place = format!("{}/", folder.path().display());
    Config::load(&inputs).map_err(|error| {
        let text = format!("{:#}", anyhow::Error::new(error));
        assert_eq!(text.lines().count(), 1, "{text}");
        text.replace(&place, "")
    })
}

fn app<'a>(loaded: &'a Loaded, name: &str) -> &'a AppConfig {
    &loaded.config.apps[&name.parse::<AppName>().unwrap()]
}

/// A file with every key of the agent and of apps.
fn full_file() -> String {
    format!(
        r#"
        host = "h1"
        state = "/tmp/state"
        goal = "file:///goal"
        seeders = ["{SEEDER}"]
        listen = "127.0.0.1:7401"
        zone = "z1"
        rack = "r1"
        upload_limit = "40MB"
        download_limit = "80Mbit"
        dscp = "background"
        disk_priority = "low"
        labels = ["canary", "stage=prod"]
        group = "g1"
        control = "/run/shoal/control.sock"
        metrics = "127.0.0.1:9464"

        [apps.web]
        exec = ["./server", "--port", "80"]
        environment = {{ A = "1" }}
        working_directory = "data"
        grace_period = "1m 30s"
        keep_builds = 5
        upload_limit = "1MB"
        download_limit = 2000
        user = "www-data"
        sockets = {{ http = "0.0.0.0:8080", dns = "udp:0.0.0.0:53", admin = "unix:/run/web.sock" }}
        hold = true
        pin = "{PIN}"
        keep_bytes = "20GiB"
        watch = {{ files = ["/etc/web.conf"], on_change = "reload" }}
        [apps.web.health]
        http = "http://127.0.0.1:8081/healthz"
        interval = "3s"
        timeout = "4s"
        min_healthy_time = "0s"
        deadline = "1m"
        tries = 7
        max_failed_probes = 8
        after_good = "report"
        max_output_rate = "1MiB"
        [apps.web.hooks]
        before_switch = {{ exec = ["./install"], user = "root", timeout = "30s" }}
        drain = {{ exec = "./drain now" }}

        [apps.unit]
        systemd = "web.service"
        health.tcp = "localhost:81"

        [apps.self]
        is_agent = true

        [apps.words]
        exec = "./server --name 'a b'"

        [apps.data]
        "#
    )
}

/// What it says of `web`.
fn web_of_full_file() -> AppConfig {
    let exec = |words: &[&str]| words.iter().copied().map(String::from).collect::<Vec<_>>();
    AppConfig {
        exec: Some(["./server", "--port", "80"].map(String::from).to_vec()),
        environment: BTreeMap::from([("A".into(), "1".into())]),
        working_directory: Some("data".into()),
        grace_period: Duration::from_secs(90),
        keep_builds: NonZero::new(5).unwrap(),
        upload_limit: ByteRate::new(1_000_000),
        download_limit: ByteRate::new(2_000),
        systemd: None,
        is_agent: false,
        user: Some("www-data".into()),
        sockets: BTreeMap::from([
            ("http".into(), SocketAddress::Tcp("0.0.0.0:8080".parse().unwrap())),
            ("dns".into(), SocketAddress::Udp("0.0.0.0:53".parse().unwrap())),
            ("admin".into(), SocketAddress::Unix("/run/web.sock".into())),
        ]),
        swap: Swap::Overlap,
        health: Health {
            probe: Some(Probe::Http {
                address: "127.0.0.1:8081".parse().unwrap(),
                path: "/healthz".into(),
            }),
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(4),
            min_healthy_time: Duration::ZERO,
            deadline: Duration::from_mins(1),
            tries: NonZero::new(7).unwrap(),
            max_failed_probes: NonZero::new(8).unwrap(),
            after_good: AfterGood::Report,
            max_output_rate: ByteRate::new(1 << 20),
        },
        hooks: Hooks {
            before_switch: Some(Hook {
                exec: exec(&["./install"]),
                user: Some("root".into()),
                timeout: Duration::from_secs(30),
            }),
            drain: Some(Hook {
                exec: exec(&["./drain", "now"]),
                user: None,
                timeout: HOOK_TIMEOUT_DEFAULT,
            }),
            ..Hooks::default()
        },
        watch: WatchedFiles { files: vec!["/etc/web.conf".into()], on_change: OnChange::Reload },
        hold: true,
        pin: Some(PIN.parse().unwrap()),
        keep_bytes: Some(20 << 30),
    }
}

#[test]
fn file_sets_every_key() {
    let loaded = load(Some(&full_file()), &[], &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.host, "h1");
    assert_eq!(config.state, PathBuf::from("/tmp/state"));
    assert_eq!(config.goal, GoalUrl::File { directory: "/goal".into() });
    assert_eq!(config.seeders, [SEEDER.parse().unwrap()]);
    assert_eq!(config.listen, "127.0.0.1:7401".parse().unwrap());
    assert_eq!((config.zone.as_str(), config.rack.as_str()), ("z1", "r1"));
    assert_eq!(config.upload_limit.map(ByteRate::get), Some(40_000_000));
    assert_eq!(config.download_limit.map(ByteRate::get), Some(10_000_000));
    assert_eq!((config.dscp, config.disk_priority), (TrafficClass::Background, DiskPriority::Low));
    let labels: Vec<_> = config.labels.iter().map(ToString::to_string).collect();
    assert_eq!((labels, config.group.as_str()), (vec!["canary".into(), "stage=prod".into()], "g1"));
    assert_eq!(config.control_path(), PathBuf::from("/run/shoal/control.sock"));
    assert_eq!(config.metrics, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.apps.len(), 5);
    assert_eq!(*app(&loaded, "web"), web_of_full_file());
    let unit = app(&loaded, "unit");
    assert_eq!(unit.systemd.as_deref(), Some("web.service"));
    let tcp = Probe::Tcp { address: "127.0.0.1:81".parse().unwrap() };
    assert_eq!((&unit.health.probe, unit.swap), (&Some(tcp), Swap::Stop));
    assert!(app(&loaded, "self").is_agent);
    // What is shown has the same effect, with every key given.
    assert_eq!(load(Some(&loaded.to_string()), &[], &[]).unwrap().config, *config);
    assert_eq!(app(&loaded, "words").exec.as_ref().unwrap(), &["./server", "--name", "a b"]);
    assert_eq!(app(&loaded, "data").exec, None);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn example_is_valid() {
    let loaded = load(Some(include_str!("../../example.toml")), &[], &[]).unwrap();
    assert!(app(&loaded, "web").exec.is_some());
    assert_eq!(app(&loaded, "models").exec, None);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn example_explains_every_key() {
    let text = include_str!("../../example.toml");
    for key in schema::names() {
        let is_there = text.contains(&format!("{key} =")) || text.contains(&format!(".{key}]"));
        assert!(is_there, "{key} is missing in example.toml");
    }
}

#[test]
fn variables_are_enough() {
    let more = [
        ("SHOAL_HOST", "1"),
        ("SHOAL_STATE", "/s"),
        ("SHOAL_LISTEN", "[::1]:9"),
        ("SHOAL_ZONE", "7"),
        ("SHOAL_RACK", "true"),
        ("SHOAL_UPLOAD_LIMIT", "1000"),
        ("SHOAL_APPS__WEB__ENVIRONMENT__HTTP__Port", "80"),
        ("SHOAL_APPS__WEB__GRACE_PERIOD", "2s"),
        ("SHOAL_APPS__WEB__KEEP_BUILDS", "2"),
        ("SHOAL_APPS__WEB__WORKING_DIRECTORY", "/srv"),
        ("SHOAL_APPS__DATA__KEEP_BUILDS", "1"),
        ("SHOAL_LABELS", "canary,stage=dev"),
        ("SHOAL_APPS__WEB__SOCKETS__HTTP", "127.0.0.1:80"),
        ("SHOAL_APPS__WEB__HEALTH__COMMAND", "./check --fast"),
        ("SHOAL_APPS__WEB__HOOKS__AFTER_SWITCH__EXEC", "./prime"),
        ("SHOAL_APPS__WEB__WATCH__FILES", "/etc/a,/etc/b"),
        ("PATH", "/bin"),
        ("SHOAL_APP_DIR", "of the agent that runs this one"),
        ("SHOAL_INSTANCE", "of the agent that runs this one"),
        ("SHOAL_MARK", "of the agent that runs this one"),
    ];
    let loaded = load(None, &[&ENOUGH[..], &more].concat(), &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(
        (config.host.as_str(), config.zone.as_str(), config.rack.as_str()),
        ("1", "7", "true")
    );
    assert_eq!(config.upload_limit.map(ByteRate::get), Some(1000));
    assert_eq!(config.listen, "[::1]:9".parse().unwrap());
    let web = app(&loaded, "web");
    assert_eq!(web.exec.as_ref().unwrap(), &["./run"]);
    assert_eq!(web.environment, BTreeMap::from([("HTTP__Port".into(), "80".into())]));
    assert_eq!(web.grace_period, Duration::from_secs(2));
    assert_eq!(web.working_directory, Some("/srv".into()));
    assert_eq!(app(&loaded, "data").keep_builds.get(), 1);
    assert_eq!(config.labels.len(), 2);
    assert!(web.sockets.contains_key("http") && web.hooks.after_switch.is_some());
    assert!(matches!(&web.health.probe, Some(Probe::Command { exec }) if exec.len() == 2));
    assert_eq!(web.watch.files, [PathBuf::from("/etc/a"), PathBuf::from("/etc/b")]);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn defaults_fill_the_rest() {
    let loaded = load(None, &ENOUGH, &[]).unwrap();
    let config = &loaded.config;
    let machine = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(config.host, machine);
    assert_eq!(config.state, PathBuf::from("/var/lib/shoal"));
    assert_eq!(config.control_path(), PathBuf::from("/var/lib/shoal/control.sock"));
    assert_eq!((config.metrics, config.group.as_str()), (None, ""));
    assert_eq!(config.listen, "0.0.0.0:0".parse().unwrap());
    assert_eq!((config.limits(), app(&loaded, "web").limits()), Default::default());
    assert_eq!((config.dscp, config.disk_priority), (TrafficClass::Default, DiskPriority::Normal));
    assert_eq!(app(&loaded, "web").grace_period, GRACE_PERIOD_DEFAULT);
    assert_eq!(app(&loaded, "web").keep_builds, KEEP_BUILDS_DEFAULT);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "zone = \"file\"\nrack = \"file\"\nhost = \"file\"\n\
                [apps.web.environment]\nA = \"file\"\nB = \"file\"\nC = \"file\"\n";
    let variables = [
        ("SHOAL_ZONE", "variable"),
        ("SHOAL_RACK", "variable"),
        ("SHOAL_APPS__WEB__ENVIRONMENT__A", "variable"),
        ("SHOAL_APPS__WEB__ENVIRONMENT__B", "variable"),
    ];
    let flags = [
        ("zone", "first"),
        ("zone", "flag"),
        ("apps.web.environment.A", "flag"),
        ("apps.web.exec", "[\"./run\", \"--port\", \"80\"]"),
        ("apps.web.hooks.drain.exec", "./drain"),
        ("apps.web.health.notify", "true"),
        ("apps.web.hold", "true"),
        ("apps.\"a.b\".exec", "./b"),
    ];
    let loaded = load(Some(file), &[&ENOUGH[..], &variables].concat(), &flags).unwrap();
    let config = &loaded.config;
    assert_eq!(
        (config.zone.as_str(), config.rack.as_str(), config.host.as_str()),
        ("flag", "variable", "file")
    );
    let web = app(&loaded, "web");
    assert_eq!(web.exec.as_ref().unwrap(), &["./run", "--port", "80"]);
    assert!(web.hold && web.hooks.drain.is_some());
    assert_eq!((&web.health.probe, config.group.as_str()), (&Some(Probe::Notify), "flag"));
    let environment: Vec<_> = web.environment.values().map(String::as_str).collect();
    assert_eq!(environment, ["flag", "variable", "file"]);
    assert_eq!(app(&loaded, "a.b").exec.as_ref().unwrap(), &["./b"]);

    let shown = loaded.to_string();
    for (line, origin) in [
        ("zone = \"flag\"", "--set"),
        ("rack = \"variable\"", "SHOAL_RACK"),
        ("host = \"file\"", "shoal.toml:3"),
        ("state = \"/var/lib/shoal\"", "default"),
        ("C = \"file\"", "shoal.toml:7"),
        ("# upload_limit is not set", "default"),
    ] {
        let found = shown.lines().find(|shown| shown.starts_with(line));
        assert!(found.is_some_and(|found| found.ends_with(origin)), "{line} in:\n{shown}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_with_the_same_effect() {
    let flags = [
        ("apps.\"a.b\".environment.\"odd name\"", "line\nbreak \"quoted\""),
        ("apps.web.grace_period", "1500ms"),
        ("upload_limit", "2MiB"),
        ("apps.web.download_limit", "3MiB"),
        ("dscp", "background"),
        ("disk_priority", "low"),
    ];
    let loaded = load(None, &ENOUGH, &flags).unwrap();
    let again = load(Some(&loaded.to_string()), &[], &[]).unwrap();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn mistakes_in_the_file_are_named_with_their_line() {
    let cases = [
        (
            "\ngaol = 1",
            "shoal.toml:2: unknown key \"gaol\" in the agent's settings; did you mean \"goal\"?",
        ),
        (
            "[apps.web]\nexce = \"a\"",
            "shoal.toml:2: unknown key \"exce\" in apps.web; did you mean \"exec\"?",
        ),
        ("apps.web.colour = 1", "shoal.toml:1: unknown key \"colour\" in apps.web"),
        ("goal =", "shoal.toml:1: "),
        ("\n\nzone = \"a\"\nzone = \"b\"", "shoal.toml:4: "),
        ("zone = \"a", "shoal.toml:1: "),
        ("apps = 3", "shoal.toml:1: \"apps\" has to be a table, found a value"),
        ("[apps]\nweb = 3", "shoal.toml:2: \"web\" has to be a table, found a value"),
        ("[apps.web]\nenvironment = 3", "shoal.toml:2: \"environment\" has to be a table"),
        (
            "[apps.web]\n[apps.web.environment]\nA = 80",
            "shoal.toml:3: apps.web.environment.A: expected a string, found a number; put it in quotes",
        ),
        (
            "[apps.web.environment]\nSHOAL_HOST = \"x\"",
            "shoal.toml:2: apps.web.environment.SHOAL_HOST: names with SHOAL_ are set by the agent",
        ),
    ];
    check_mistakes(&cases);
}

#[test]
fn values_that_do_not_fit_are_named_with_their_line() {
    let cases = [
        ("zone = 1", "shoal.toml:1: zone: expected a string, found a number"),
        ("seeders = \"x\"", "shoal.toml:1: seeders: expected a list of strings, found a string"),
        (
            "seeders = [1]",
            "shoal.toml:1: seeders: expected a list of strings, found a number in it",
        ),
        ("seeders = [\"x\"]", "shoal.toml:1: seeders: \"x\" is not a seeder's address"),
        ("goal = \"x\"", "shoal.toml:1: goal: \"x\" is not a goal store"),
        ("listen = \"x\"", "shoal.toml:1: listen: \"x\" is not an address to listen on"),
        ("dscp = \"bulk\"", "shoal.toml:1: dscp: \"bulk\" is not a class of traffic"),
        ("disk_priority = 3", "shoal.toml:1: disk_priority: expected a string, found a number"),
        ("apps.web.upload_limit = 0", "shoal.toml:1: apps.web.upload_limit: 0 is not a number"),
        ("host = \"a b\"", "shoal.toml:1: host: \"a b\" is not a host name"),
        ("host = \"../x\"", "shoal.toml:1: host: \"../x\" is not a host name"),
        ("state = \"\"", "shoal.toml:1: state: \"\" is not a path"),
        (
            "upload_limit = 0",
            "shoal.toml:1: upload_limit: 0 is not a number of bytes per second above 0",
        ),
        ("upload_limit = -1", "shoal.toml:1: upload_limit: -1 is not a number of bytes"),
        (
            "upload_limit = \"fast\"",
            "shoal.toml:1: upload_limit: \"fast\" does not start with a number",
        ),
        ("[apps.\"A b\"]", "shoal.toml:1: apps.A b: \"A b\" is not an app name"),
        ("apps.web.exec = []", "shoal.toml:1: apps.web.exec: it names no program"),
        ("apps.web.exec = [\"\"]", "shoal.toml:1: apps.web.exec: the program's name is empty"),
        ("apps.web.exec = \"a | b\"", "shoal.toml:1: apps.web.exec: '|' needs a shell"),
        ("apps.web.exec = 3", "shoal.toml:1: apps.web.exec: expected a list of strings"),
        (
            "apps.web.grace_period = \"10\"",
            "shoal.toml:1: apps.web.grace_period: \"10\" is not a duration",
        ),
        ("apps.web.grace_period = 10", "shoal.toml:1: apps.web.grace_period: expected a string"),
        ("apps.web.keep_builds = 0", "shoal.toml:1: apps.web.keep_builds: expected a whole number"),
        (
            "apps.web.keep_builds = 1.5",
            "shoal.toml:1: apps.web.keep_builds: expected a whole number",
        ),
        (
            "apps.web.working_directory = 1",
            "shoal.toml:1: apps.web.working_directory: expected a string",
        ),
    ];
    check_mistakes(&cases);
}

#[test]
fn values_of_new_kinds_that_do_not_fit_are_named() {
    let cases = [
        ("labels = [\"A\"]", "shoal.toml:1: labels: \"A\" is not a label"),
        ("group = \"\"", "shoal.toml:1: group: \"\" is not a group"),
        ("group = \"g\u{200b}1\"", "shoal.toml:1: group: \"g\\u{200b}1\" is not a group"),
        ("metrics = \"9464\"", "shoal.toml:1: metrics: \"9464\" is not an address"),
        (
            "apps.web.user = \"a b\"",
            "shoal.toml:1: apps.web.user: \"a b\" is not the name of a user",
        ),
        (
            "apps.web.hold = 1",
            "shoal.toml:1: apps.web.hold: expected true or false, found a number",
        ),
        ("apps.web.pin = \"12\"", "shoal.toml:1: apps.web.pin: \"12\" is not a build"),
        (
            "apps.web.keep_bytes = \"2Gbit\"",
            "shoal.toml:1: apps.web.keep_bytes: \"2Gbit\" is not a size",
        ),
        ("apps.web.swap = \"both\"", "shoal.toml:1: apps.web.swap: \"both\" is not a way"),
        ("apps.x.systemd = \"web\"", "shoal.toml:1: apps.x.systemd: \"web\" is not a unit"),
        ("apps.web.sockets = 1", "shoal.toml:1: \"sockets\" has to be a table"),
        ("apps.web.sockets.a = \"80\"", "shoal.toml:1: apps.web.sockets.a: \"80\" is not a socket"),
        ("apps.web.sockets.a = \"[::]:0\"", "shoal.toml:1: apps.web.sockets.a: port 0"),
        ("apps.web.sockets.a = \"unix:a\"", "shoal.toml:1: apps.web.sockets.a: \"unix:a\""),
        ("apps.web.sockets.\"a:b\" = \"[::]:1\"", "shoal.toml:1: apps.web.sockets.a:b: \"a:b\""),
        (
            "apps.web.watch.files = [\"a\"]",
            "shoal.toml:1: apps.web.watch.files: \"a\" is not an abs",
        ),
        ("apps.web.watch.on_change = \"x\"", "shoal.toml:1: apps.web.watch.on_change: \"x\""),
        (
            "apps.web.health.htp = \"x\"",
            "shoal.toml:1: unknown key \"htp\" in apps.web.health; did you mean \"http\"?",
        ),
        (
            "apps.web.health.http = \"https://a\"",
            "shoal.toml:1: apps.web.health.http: \"https://a\"",
        ),
        (
            "apps.web.health.tcp = \"a\"",
            "shoal.toml:1: apps.web.health.tcp: \"a\" is not an address",
        ),
        ("apps.web.health.interval = \"0s\"", "shoal.toml:1: apps.web.health.interval: expected"),
        ("apps.web.hooks.drain = 1", "shoal.toml:1: \"drain\" has to be a table"),
        (
            "apps.web.hooks.drian = 1",
            "shoal.toml:1: unknown key \"drian\" in apps.web.hooks; did you mean \"drain\"?",
        ),
        (
            "apps.web.hooks.drain.user = \"a\"",
            "shoal.toml:1: apps.web.hooks.drain.user: the hook has no command",
        ),
    ];
    check_mistakes(&cases);
}

#[test]
fn keys_that_exclude_each_other_are_named() {
    let cases = [
        (
            "[apps.web]\nsystemd = \"w.service\"",
            "shoal.toml:2: apps.web.systemd: the app has a program",
        ),
        (
            "[apps.x.sockets]\na = \"[::]:80\"",
            "shoal.toml:2: apps.x.sockets.a: the agent does that",
        ),
        ("apps.x.swap = \"overlap\"", "shoal.toml:1: apps.x.swap: the agent does that"),
        (
            "apps.web.health.after_good = \"stop\"",
            "shoal.toml:1: apps.web.health.after_good: \"stop\" is not what can follow",
        ),
        (
            "apps.web.health.max_failed_probes = 0",
            "shoal.toml:1: apps.web.health.max_failed_probes: expected",
        ),
        ("apps.x.health.notify = true", "shoal.toml:1: apps.x.health.notify: the agent does that"),
        (
            "[apps.x]\nsystemd = \"x.service\"\nhealth.max_output_rate = \"1MB\"",
            "shoal.toml:3: apps.x.health.max_output_rate: the agent does that",
        ),
        ("apps.x.working_directory = \"a\"", "shoal.toml:1: apps.x.working_directory: the agent"),
        ("apps.x.watch.files = [\"/a\"]", "shoal.toml:1: apps.x.watch.files: there is no program"),
        (
            "apps.web.health = { tcp = \"[::1]:1\",\nnotify = true }",
            "shoal.toml:2: apps.web.health.notify: there is a probe already: health.tcp",
        ),
        (
            "[apps.web.health]\nmin_healthy_time = \"2m\"",
            "shoal.toml:2: apps.web.health.min_healthy_time: no build can be healthy for 2m",
        ),
        (
            "[apps.web.health]\ndeadline = \"1s\"",
            "shoal.toml:2: apps.web.health.deadline: no build can be healthy for 10s",
        ),
        (
            "[apps.x]\nis_agent = true\nexec = \"a\"",
            "shoal.toml:3: apps.x.exec: the app is the agent itself",
        ),
        (
            "[apps.x]\nis_agent = true\n[apps.y]\nis_agent = true",
            "shoal.toml:4: apps.y.is_agent: apps.x is the agent already",
        ),
        (
            "[apps.web.sockets]\na = \"[::]:80\"\nb = \"[::]:80\"",
            "shoal.toml:3: apps.web.sockets.b: apps.web.sockets.a has this address already",
        ),
    ];
    check_mistakes(&cases);
}

#[test]
fn limits_of_output_that_do_not_fit_are_named() {
    let cases = [
        (
            "apps.web.health.max_output_rate = \"16\u{b5}B\"",
            "shoal.toml:1: apps.web.health.max_output_rate: ",
        ),
        (
            "apps.web.health.max_output_rate = 0",
            "shoal.toml:1: apps.web.health.max_output_rate: 0 is not a number of bytes per second \
             above 0; write \"unlimited\" for no limit",
        ),
        (
            "apps.web.health.max_output_rate = \"never\"",
            "shoal.toml:1: apps.web.health.max_output_rate: ",
        ),
        (
            "apps.web.health.max_output_rate = true",
            "shoal.toml:1: apps.web.health.max_output_rate: expected",
        ),
        (
            "apps.web.health.max_output_rat = \"1MB\"",
            "shoal.toml:1: unknown key \"max_output_rat\" in apps.web.health; did you mean \
             \"max_output_rate\"?",
        ),
    ];
    check_mistakes(&cases);
}

#[test]
fn output_has_a_limit_that_can_be_another_or_none() {
    let rate = |flags: &[(&str, &str)]| {
        let loaded = load(None, &ENOUGH, flags).unwrap();
        loaded.config.apps.values().next().unwrap().health.max_output_rate
    };
    let key = "apps.web.health.max_output_rate";
    assert_eq!(rate(&[]), Health::default().max_output_rate);
    assert_eq!(rate(&[(key, "8Mbit/s")]), ByteRate::new(1_000_000));
    assert_eq!(rate(&[(key, "2048")]), ByteRate::new(2_048));
    assert_eq!(rate(&[(key, "unlimited")]), None);
    let shown = load(None, &ENOUGH, &[(key, "unlimited")]).unwrap().to_string();
    assert!(shown.contains("max_output_rate = \"unlimited\""), "{shown}");
}

#[test]
fn what_may_be_a_mistake_is_a_warning() {
    for (flags, part) in [
        (&[("apps.web.swap", "overlap")][..], "holds no sockets"),
        (&[("apps.web.swap", "stop"), ("apps.web.sockets.a", "[::]:80")], "connections wait"),
        (
            &[("apps.web.sockets.a", "0.0.0.0:80"), ("apps.web.health.tcp", "127.0.0.1:80")],
            "either may answer on the socket \"a\"",
        ),
    ] {
        let warnings = load(None, &ENOUGH, flags).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{warnings:?}");
    }
    for flags in [
        &[("apps.web.sockets.a", "[::]:80")][..],
        &[("apps.web.sockets.a", "0.0.0.0:80"), ("apps.web.health.tcp", "127.0.0.1:81")],
    ] {
        assert!(load(None, &ENOUGH, flags).unwrap().warnings.is_empty());
    }
}

#[test]
fn bootstrap_is_below_everything_else() {
    let settings =
        format!("zone = \"b\"\nrack = \"b\"\ngoal = \"file:///b\"\nseeders = [\"{SEEDER}\"]");
    let settings: toml::Table = settings.parse().unwrap();
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let inputs = Inputs {
        bootstrap: Some(BootstrapSettings { source: "/b.toml".into(), settings }),
        environment: vec![variable("SHOAL_ZONE", "v"), variable("SHOAL_APPS__WEB__EXEC", "./a")],
        ..Inputs::default()
    };
    let loaded = Config::load(&inputs).unwrap();
    assert_eq!((loaded.config.zone.as_str(), loaded.config.rack.as_str()), ("v", "b"));
    let shown = loaded.to_string();
    let rack = shown.lines().find(|line| line.starts_with("rack")).unwrap();
    assert!(rack.ends_with("# /b.toml"), "{rack}");
    let wrong = "gaol = 1".parse().unwrap();
    let bootstrap = Some(BootstrapSettings { source: "/b.toml".into(), settings: wrong });
    let error = Config::load(&Inputs { bootstrap, ..Inputs::default() }).unwrap_err();
    assert!(error.to_string().starts_with("/b.toml: unknown key \"gaol\""), "{error}");
    assert_eq!(Config::state_directory(&inputs).unwrap(), PathBuf::from(STATE_DEFAULT));
}

fn check_mistakes(cases: &[(&str, &str)]) {
    for (text, expected) in cases.iter().copied() {
        // Variables win over the file, so each key is left to the file alone.
        let variables: Vec<_> = ENOUGH
            .iter()
            .copied()
            .filter(|(name, _)| {
                !text.contains(&name["SHOAL_".len()..].to_lowercase().replace("__", "."))
            })
            .collect();
        let error = load(Some(text), &variables, &[]).map(|_| ()).expect_err(text);
        assert!(error.starts_with(expected), "{text:?}:\n{error}\nexpected {expected}");
    }
}

#[test]
fn mistakes_elsewhere_are_named_with_their_place() {
    let variables = [
        ("SHOAL_LISTEN", "x", "SHOAL_LISTEN: listen: \"x\" is not an address"),
        ("SHOAL_APPS__WEB__EXCE", "x", "SHOAL_APPS__WEB__EXCE: unknown key \"exce\" in apps.web"),
        ("SHOAL_APPS__WEB", "x", "SHOAL_APPS__WEB: expected SHOAL_APPS__NAME__KEY"),
        (
            "SHOAL_APPS__WEB__KEEP_BUILDS",
            "many",
            "SHOAL_APPS__WEB__KEEP_BUILDS: apps.web.keep_builds: ",
        ),
        (
            "SHOAL_APPS__WEB__ENVIRONMENT",
            "A=1",
            "SHOAL_APPS__WEB__ENVIRONMENT: expected SHOAL_APPS__NAME__ENVIRONMENT__VARIABLE",
        ),
    ];
    for (name, value, expected) in variables {
        let variables = [&ENOUGH[..], &[(name, value)]].concat();
        let error = load(None, &variables, &[]).map(|_| ()).expect_err(name);
        assert!(error.starts_with(expected), "{name}: {error}");
    }
    let flags = [
        ("gaol", "x", "--set: unknown key \"gaol\""),
        ("apps.web", "x", "--set: expected apps.NAME.KEY, found apps.web"),
        ("apps.web.exec.x", "x", "--set: expected apps.NAME.exec, found"),
        ("goal.x", "x", "--set: unknown key \"goal.x\""),
        ("a b", "x", "--set: \"a b\" is not a key"),
        ("apps.web.exec", "[1]", "--set: apps.web.exec: expected a list of strings"),
        ("zone", "a\nb", "ok"),
    ];
    for (key, value, expected) in flags {
        match load(None, &ENOUGH, &[(key, value)]) {
            Ok(loaded) => assert_eq!((loaded.config.zone.as_str(), expected), ("a\nb", "ok")),
            Err(error) => assert!(error.starts_with(expected), "{key}: {error}"),
        }
    }
}

#[test]
fn unknown_variable_is_a_warning() {
    let loaded = load(None, &[&ENOUGH[..], &[("SHOAL_GAOL", "x")]].concat(), &[]).unwrap();
    assert_eq!(
        loaded.warnings,
        ["SHOAL_GAOL is not a setting of the agent; did you mean \"goal\"?"]
    );
}

#[test]
fn what_is_missing_is_named_with_all_ways_to_give_it() {
    for (left_out, ways) in [
        ("SHOAL_GOAL", ["goal store", "--goal", "SHOAL_GOAL"]),
        ("SHOAL_SEEDERS", ["seeder", "--seeder", "SHOAL_SEEDERS"]),
        ("SHOAL_APPS__WEB__EXEC", ["app", "--app", "[apps.NAME]"]),
    ] {
        let variables: Vec<_> =
            ENOUGH.iter().copied().filter(|(name, _)| *name != left_out).collect();
        let error = load(None, &variables, &[]).map(|_| ()).expect_err(left_out);
        for way in ways {
            assert!(error.contains(way), "{error}");
        }
    }
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let inputs = Inputs { file: Some("/nowhere/shoal.toml".into()), ..Inputs::default() };
    let error = format!("{:#}", anyhow::Error::new(Config::load(&inputs).unwrap_err()));
    assert!(
        error.starts_with("cannot read the configuration /nowhere/shoal.toml: No such"),
        "{error}"
    );
}
