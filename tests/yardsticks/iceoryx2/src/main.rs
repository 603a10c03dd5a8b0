//! Round trips of 64 bytes by iceoryx2's request and response, both sides polling: `serve NAME` and `ask NAME BLOCK`.
//!
//! Either is told on its standard input how many round trips come, a line each time; `ask` answers with the median, over blocks of so many, of the
//! nanoseconds of one.

use iceoryx2::prelude::*;
use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

type Payload = [u64; 8];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.get(1).ok_or("serve NAME | ask NAME BLOCK")?;
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let service =
        node.service_builder(&name.as_str().try_into()?).request_response::<Payload, Payload>().open_or_create()?;
    let counts = std::io::stdin().lock().lines().map(|line| line.map(|line| line.trim().parse::<u64>()));
    match args[0].as_str() {
        "serve" => {
            let server = service.server_builder().create()?;
            println!("ready");
            for count in counts {
                let mut left = count??;
                while left > 0 {
                    while let Some(request) = server.receive()? {
                        request.send_copy(*request.payload())?;
                        left -= 1;
                    }
                }
            }
        }
        _ => {
            let block: u64 = args.get(2).ok_or("BLOCK")?.parse()?;
            let client = service.client_builder().create()?;
            println!("ready");
            for count in counts {
                let mut times = Vec::new();
                for _ in 0..count?? / block {
                    let begun = Instant::now();
                    for n in 0..block {
                        let pending = client.send_copy([n; 8])?;
                        while pending.receive()?.is_none() {}
                    }
                    times.push(begun.elapsed().as_nanos() as f64 / block as f64);
                }
                times.sort_by(f64::total_cmp);
                println!("{}", times[times.len() / 2]);
            }
        }
    }
    Ok(())
}
