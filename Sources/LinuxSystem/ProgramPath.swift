internal import CSystemShims
internal import Geometry
internal import SystemPackage

/// Where the system's tools are, whatever the environment says: cron(8) has /usr/bin and /bin only.
private let systemFolders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]

/// The file of a program: along PATH, and then where the system has its tools. A name with a slash is a path itself.
/// - Throws: ENOENT when there is none.
public func programPath(_ name: String) throws(SystemError) -> String {
    if PathText.hasSlash(name) { return name }
    let path = environmentVariable("PATH") ?? ""
    for folder in path.parts(between: ":").map(String.init) + systemFolders {
        let file = "\(folder)/\(name)"
        if unsafe shim_is_program(file) == 1 { return file }
    }
    throw SystemError(errno: .noSuchFileOrDirectory, operation: "start", subject: name)
}
