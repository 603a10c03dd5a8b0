use codax_core::change::Change;
use codax_core::namespace::{Inode, Kind};
use codax_core::extent::Extent;
use codax_core::*;
use codax_engine::env::Env;
use codax_engine::journal::Journal;
use std::sync::Arc;
use std::time::{Duration, Instant};
#[derive(Debug)] struct E;
impl Env for E { fn now(&self)->Duration{Duration::ZERO} fn wall_ns(&self)->i64{0} fn random(&self)->u64{77} fn sleep(&self,_:Duration){} fn spawn(&self,_:&str,j:Box<dyn FnOnce()+Send>){j()} fn reached(&self,_:&'static str){} }
fn put(id: u64) -> Change { Change::Put(Box::new(Inode{id:FileId(id),kind:Kind::File,mode:0o644,uid:1000,gid:1000,nlink:1,len:65536,mtime_ns:1_700_000_000_000_000_000,ctime_ns:1_700_000_000_000_000_000,placement:None,extents:vec![Extent{page:PageNo(0),count:PageCount(16),pool:PoolId(0),frame:Frame(id*16)}],away:vec![]})) }
fn link(id: u64) -> Change { Change::Link{dir:FileId(1+id%100),name:format!("some_file_name_{id}.dat").into_bytes(),child:FileId(id)} }
fn rss() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmRSS")||l.starts_with("VmHWM")).collect::<Vec<_>>().join(" ") }
fn main() {
    let dir = std::path::PathBuf::from("/dev/shm/journal-speed"); let _ = std::fs::remove_dir_all(&dir); std::fs::create_dir_all(&dir).unwrap();
    let t=Instant::now();
    let (j,_) = Journal::open(&dir, Arc::new(E), &mut |_| Ok(())).unwrap();
    println!("first open {:?}", t.elapsed());
    let n=100_000u64;
    let mut lat=Vec::new(); let t=Instant::now(); let mut fold=Duration::ZERO; let mut folds=0;
    for id in 2..n+2 { let c=[put(id),link(id)]; let s=Instant::now(); j.append(&c).unwrap(); lat.push(s.elapsed()); if id%10000==0 { let b=j.bytes(); let s=Instant::now(); j.maintain().unwrap(); if j.bytes()<b { fold+=s.elapsed(); folds+=1; } } }
    println!("appends {:?} total, folds {folds} {:?}; rss {}", t.elapsed(), fold, rss());
    lat.sort(); println!("append p50 {:?} p99 {:?} max {:?}", lat[lat.len()/2], lat[lat.len()*99/100], lat[lat.len()-1]);
    let t=Instant::now(); println!("bytes left {}", j.bytes()); j.close().unwrap(); println!("close {:?}", t.elapsed());
    for round in 0..3 {
        let mut count=0u64; let t=Instant::now();
        let (j,_) = Journal::open(&dir, Arc::new(E), &mut |c| {count+=1; std::hint::black_box(c); Ok(())}).unwrap();
        println!("open clean {count} {:?} {}", t.elapsed(), rss());
        if round==1 { // dirty: copy while open
            let d2=std::path::PathBuf::from("/dev/shm/journal-speed2"); let _=std::fs::remove_dir_all(&d2); std::fs::create_dir_all(&d2).unwrap();
            for e in std::fs::read_dir(&dir).unwrap(){let e=e.unwrap(); std::fs::copy(e.path(), d2.join(e.file_name())).unwrap(); println!("  {:?} {}", e.file_name(), e.metadata().unwrap().len());}
            let t=Instant::now(); let mut count=0u64;
            let (_j,_) = Journal::open(&d2, Arc::new(E), &mut |c| {count+=1; std::hint::black_box(c); Ok(())}).unwrap();
            println!("open after kill {count} {:?}", t.elapsed());
            // flight: log full
            for id in n+2..n+2+30_000 { _j.append(&[put(id),link(id)]).unwrap(); }
            println!("bytes {}", _j.bytes()); let t=Instant::now(); _j.maintain().unwrap(); println!("fold {:?} {}", t.elapsed(), rss());
            let _=std::fs::remove_dir_all(&d2);
        }
        let t=Instant::now(); drop(j); println!("drop {:?}", t.elapsed());
    }
    let _ = std::fs::remove_dir_all(&dir);
}
