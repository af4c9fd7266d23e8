use super::*;
#[test]
fn probe() {
    let text = std::fs::read_to_string("/tmp/probe.yaml").unwrap();
    match load_str("p.yaml", &text) {
        Ok(l) => {
            println!("{}", to_yaml(&l.config));
            for w in l.warnings {
                println!("{w}");
            }
        }
        Err(p) => {
            for p in p {
                println!("{p}");
            }
        }
    }
    println!("{}", schema_text());
}
