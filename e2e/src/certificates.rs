//! An authority of a test's own, and the certificates that it issues.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::NamedTempFile;

/// What those who believe only this authority believe. Its key is nowhere but in memory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    certificate: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, each in a PEM file.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate; its authority's is not in the file.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with its files in this directory, which is made if it is missing and names it.
    pub fn new(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        params.distinguished_name = named(&format!("Ackline test authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        let certificate = dir.join("authority.pem");
        write(&certificate, &pem)?;
        Ok(Self { dir: dir.to_owned(), certificate, issuer: Issuer::new(params, key) })
    }

    /// The file with the authority's own certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Issues a certificate, good for servers and clients, for these host names and IP addresses.
    /// `name` names the files, and is the common name.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Result<Issued> {
        self.sign(name, params(name, hosts)?)
    }

    /// The same, but expired long ago.
    pub fn issue_expired(&self, name: &str, hosts: &[&str]) -> Result<Issued> {
        let mut params = params(name, hosts)?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(name, params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let issued = Issued {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        write(&issued.certificate, &params.signed_by(&key, &self.issuer)?.pem())?;
        write(&issued.key, &key.serialize_pem())?;
        Ok(issued)
    }
}

fn params(name: &str, hosts: &[&str]) -> Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Writes a file that only its owner can read, as keys are kept. It takes the place of an older one
/// at once, so that nobody who watches it reads a half of it.
fn write(file: &Path, text: &str) -> Result<()> {
    let failed = || format!("can't write {}", file.display());
    let dir = file.parent().with_context(failed)?;
    let mut new = NamedTempFile::new_in(dir).with_context(failed)?;
    new.write_all(text.as_bytes()).with_context(failed)?;
    new.persist(file).with_context(failed)?;
    Ok(())
}
