//! Each layer on its own, all of them together, and every wrong input that a person may give.

use super::*;

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

#[test]
fn file_sets_every_key() {
    let text = format!(
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

        [apps.web]
        exec = ["./server", "--port", "80"]
        environment = {{ A = "1" }}
        working_directory = "data"
        grace_period = "1m 30s"
        keep_builds = 5
        upload_limit = "1MB"
        download_limit = 2000

        [apps.words]
        exec = "./server --name 'a b'"

        [apps.data]
        "#
    );
    let loaded = load(Some(&text), &[], &[]).unwrap();
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
    assert_eq!(config.apps.len(), 3);
    assert_eq!(
        *app(&loaded, "web"),
        AppConfig {
            exec: Some(["./server", "--port", "80"].map(String::from).to_vec()),
            environment: BTreeMap::from([("A".into(), "1".into())]),
            working_directory: Some("data".into()),
            grace_period: Duration::from_secs(90),
            keep_builds: NonZero::new(5).unwrap(),
            upload_limit: ByteRate::new(1_000_000),
            download_limit: ByteRate::new(2_000),
            ..AppConfig::default()
        }
    );
    assert_eq!(app(&loaded, "words").exec.as_ref().unwrap(), &["./server", "--name", "a b"]);
    assert_eq!(app(&loaded, "data").exec, None);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn example_is_valid() {
    let loaded = load(Some(include_str!("../../example.toml")), &[], &[]).unwrap();
    assert!(app(&loaded, "web").exec.is_some());
    assert_eq!(app(&loaded, "models").exec, None);
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
        ("PATH", "/bin"),
        ("SHOAL_APP_DIR", "of the agent that runs this one"),
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
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn defaults_fill_the_rest() {
    let loaded = load(None, &ENOUGH, &[]).unwrap();
    let config = &loaded.config;
    let machine = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(config.host, machine);
    assert_eq!(config.state, PathBuf::from("/var/lib/shoal"));
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
        ("SHOAL_APPS__WEB", "x", "SHOAL_APPS__WEB: expected SHOAL_APPS__APP__KEY"),
        (
            "SHOAL_APPS__WEB__KEEP_BUILDS",
            "many",
            "SHOAL_APPS__WEB__KEEP_BUILDS: apps.web.keep_builds: ",
        ),
        (
            "SHOAL_APPS__WEB__ENVIRONMENT",
            "A=1",
            "SHOAL_APPS__WEB__ENVIRONMENT: \"environment\" takes one",
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
        ("apps.web.exec.x", "x", "--set: expected apps.NAME.KEY"),
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
